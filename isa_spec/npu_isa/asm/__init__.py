"""Assembly text: from text to a binary, from a binary to text, and the reference page."""

from npu_isa.asm.assemble import assemble
from npu_isa.asm.disasm import disassemble

__all__ = ["assemble", "disassemble"]
