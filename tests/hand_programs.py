"""Small programs in assembly, whose times and cycles by cause the tests work out by hand."""

from npu_isa.asm.assemble import assemble
from npu_isa.isa.codec import decode
from npu_isa.isa.ops import Op
from npu_isa.isa.resolve import resolve
from npu_isa.machine.config import MachineConfig

HEAD = """
.machine "npu16" name="hand" {sizes}
.input height=1 width=1 channels=16
.output height=1 width=1 channels=16
"""


def hand(text: str, sizes: dict[str, int]) -> tuple[tuple[Op, ...], MachineConfig]:
    """Return the operations of a program written in assembly and its machine, npu16 but for `sizes`."""
    said = " ".join(f"{k}={v}" for k, v in ({"dram_latency_cycles": 20} | sizes).items())
    binary = assemble(HEAD.format(sizes=said) + text, "hand.s")
    return resolve(decode(binary.code)), binary.machine


TWO_CONVS = """
  geom   register=0 in_h=2 in_w=2 row_pitch=2
  groups
  conv   tile_h=2 tile_w=2
  conv   tile_h=2 tile_w=2 acc_half=1
  halt
"""

TOKEN_FULL = """
  load                run=16 push=store
  load   addr=1       run=16 push=store
  load   addr=2       run=16 push=store
  load   addr=3       run=16
  load   addr=4       run=16
  vgeom  source=acc out_pixel_pitch=1
  vec    tile_w=10 out_base=2048 lanes=16 push=store
  store  dram_addr=0x400 addr=4096 run=16 pop=load+vector
  store  dram_addr=0x410 addr=4096 run=16 pop=load
  store  dram_addr=0x420 addr=4096 run=16 pop=load
  halt
"""

ALTERNATION = """
  load   run=3008
  store  dram_addr=0x4000 addr=2048 run=2048
  halt
"""

PORTS = """
  vgeom  source=sum in_h=4 in_w=5 row_pitch=5 pixel_pitch=1 out_row_pitch=5 out_pixel_pitch=1
  vec    tile_h=4 tile_w=5 out_base=2048 lanes=16
  geom   in_h=2 in_w=2 row_pitch=2
  groups
  conv   tile_h=2 tile_w=2
  store  dram_addr=0x400 run=64
  load   addr=2100 run=64
  halt
"""

VECS = """
  vgeom  source=acc out_pixel_pitch=1
  vec    tile_w=10 lanes=16
  vec    tile_w=10 lanes=16 out_base=10
  vec    tile_w=10 lanes=16 out_base=20 {third}
  vec    tile_w=10 lanes=16 out_base=30
  load   run=64 addr=2048
  halt
"""
