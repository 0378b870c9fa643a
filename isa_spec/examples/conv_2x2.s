; A 1x1 convolution by hand, on an array of 2 rows and 2 columns: 2 x 2 pixels of one group, two output channels.
;   npu asm conv_2x2.s -o conv_2x2.npubin
;
; Output channel 0 is input channel 0 plus input channel 1; output channel 1 is 3 x input channel 2, minus 4.
; Both are requantized with multiplier 2 and shift 1: (sum * 2 + 1) >> 1 = sum.

.machine "npu16" name="npu2" array_rows=2 array_cols=2
.input height=2 width=2 channels=16        ; DRAM: behind the program
.output height=2 width=2 channels=16       ; DRAM: behind the input

; the image to activation words 0..3; zeros to words 4..7, for the 14 channels that no vec writes
  load   dram_addr=0x800 run=64
  load   dram_addr=0x80 run=64 addr=4
  load   memory=param dram_addr=0 run=24 push=vector
  load   memory=weight dram_addr=0x40 run=48 push=matrix

; four pixels into accumulator rows 0..3; the group table's place 0 is input group 0
  geom   register=255 in_h=2 in_w=2 row_pitch=2
  groups
  conv   tile_h=2 tile_w=2 pop=load push=vector

; and out again: clamped to bytes, lanes 0 and 1 of words 4..7
  vgeom  source=acc out_row_pitch=2 out_pixel_pitch=1 clamp_low=-128 clamp_high=127
  vec    tile_h=2 tile_w=2 out_base=4 lanes=2 pop=load+matrix push=store
  store  dram_addr=0x840 run=64 addr=4 pop=vector
  halt

.data constants
; parameter block: bias | multiplier, shift | second multiplier; 4 bytes for each of the two lanes
0000: 00000000 fcffffff
0008: 02000100 02000100
0010: 00000000 00000000
; weight block: the positions s_wgt in 16 bytes, then 16 input channels of two columns
0040: 00000000000000000000000000000000
0050: 0100 0100 0003
; zeros
00bf: 00
