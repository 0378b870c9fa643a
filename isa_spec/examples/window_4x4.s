; A fold and a depthwise convolution by hand on an array of 4 rows and 4 columns: an image of 4 x 4 pixels of one byte.
;   npu asm window_4x4.s -o window_4x4.npubin
;
; The fold gathers the 3 x 3 neighbours of each pixel into one word: byte 3 ky + kx is tap (ky, kx), zero outside. The vec
; sums bytes 0 to 3 of the words over 3 x 3 pixels and adds the byte itself: (sum x 1 + byte x 2 + 1) >> 1.

.machine "npu16" name="npu4" array_rows=4 array_cols=4
.input height=4 width=4 channels=1 address=0x820  ; DRAM: behind the program, 32 bytes into a burst
.output height=4 width=4 channels=16              ; DRAM: behind the input, 0x830

; the folded image to activation words 0..15; zeros to words 16..31, for the 12 channels that no vec writes
  fold   dram_addr=0x820 in_h=4 in_w=4 channels=1 kernel_h=3 kernel_w=3 pad_top=1 pad_left=1 rows=4 cols=4 row_pitch=4
  load   memory=param dram_addr=0 run=96
  load   dram_addr=0x60 run=256 addr=16 push=vector

; lanes 0 to 3: a window of 3 x 3 and a residual
  vgeom  source=mac kernel_h=3 kernel_w=3 pad_top=1 pad_left=1 in_h=4 in_w=4 row_pitch=4 pixel_pitch=1 out_row_pitch=4 out_pixel_pitch=1 residual=1 res_row_pitch=4 res_pixel_pitch=1 clamp_low=-128 clamp_high=127
  vec    tile_h=4 tile_w=4 out_base=16 lanes=4 pop=load push=store
  store  dram_addr=0x830 run=256 addr=16 pop=vector
  halt

.data constants
; parameter block: bias | multiplier, shift | second multiplier | weights, 4 taps of one lane in 4 bytes
0000: 00000000 00000000 00000000 00000000
0010: 01000100 01000100 01000100 01000100
0020: 02000000 02000000 02000000 02000000
0030: 01010101 01010101 01010101 01010101
0040: 01010101 01010101 01010101 01010101
0050: 01000000 01000000 01000000 01000000
; zeros
015f: 00
