"""The static check of a program: what it passes cannot crash, hang, race or leave a memory, at any boundary."""

from npu_isa.check.program import check_binary, check_program

__all__ = ["check_binary", "check_program"]
