; A 1x1 convolution by hand on an array of 4 rows and 4 columns, with a dial: 4 x 4 pixels of one group.
;   npu asm conv_4x4.s -o conv_4x4.npubin
;
; Output channel 0 is the sum of all input channels, channel 1 is 4 x input channel 0, channel 2 is -3 x input channel 1,
; channel 3 is input channel 15. In 4-bit form activations stand for 2 x their code (s_act = 1) and the weights of
; channel 1 too (s_wgt = 1). All are requantized with multiplier 1 and shift 3: (sum + 4) >> 3.

.machine "npu16" name="npu4" array_rows=4 array_cols=4
.input height=4 width=4 channels=16        ; DRAM: behind the program, 0x800
.output height=4 width=4 channels=16       ; DRAM: behind the input, 0x900
.define "conv" register=0 groups=1 boundaries=[0, 1] macs=1024
.step register=0 boundary=1 low_macs=1024

; the image to activation words 0..15; zeros to words 16..31, for the 12 channels that no vec writes
  .layer "conv"
  load   memory=weight dram_addr=0x40 run=80
  load   dram_addr=0x800 run=256 push=matrix
  load   memory=param dram_addr=0 run=48
  load   dram_addr=0x90 run=256 addr=16 push=vector

; sixteen pixels into accumulator rows 0..15; activations are 0..255
  geom   register=0 in_h=4 in_w=4 row_pitch=4 unsigned=1
  groups shift=[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
  conv   tile_h=4 tile_w=4 pop=load push=vector

; and out again: lanes 0 to 3 of words 16..31
  vgeom  source=acc out_row_pitch=4 out_pixel_pitch=1 clamp_low=-128 clamp_high=127
  vec    tile_h=4 tile_w=4 out_base=16 lanes=4 pop=load+matrix push=store
  store  dram_addr=0x900 run=256 addr=16 pop=vector
  .layer none
  halt

.data constants
; parameter block: bias | multiplier, shift | second multiplier; 4 bytes for each of the four lanes
0000: 00000000 00000000 00000000 00000000
0010: 01000300 01000300 01000300 01000300
0020: 00000000 00000000 00000000 00000000
; weight block: the positions s_wgt in 16 bytes, 4 bits per column, then 16 input channels of four columns
0040: 10000000000000000000000000000000
0050: 01040000 0100fd00 01000000 01000000
0060: 01000000 01000000 01000000 01000000
0070: 01000000 01000000 01000000 01000000
0080: 01000000 01000000 01000000 01000001
; zeros
018f: 00
