; A product and two tables by hand, on an array of 4 rows and 16 columns: 2 x 2 pixels of 16 channels.
;   npu asm table_2x2.s -o table_2x2.npubin
;
; The first vec multiplies every pixel by pixel 0, channel by channel, and looks the product up in the first table, 255 - x;
; the second multiplies by pixel 1 and looks up in the second table, 16 times the square root. Pitches of zero make one
; pixel the residual operand of all.

.machine "npu16" name="npu4x16" array_rows=4 array_cols=16
.input height=2 width=2 channels=16 address=0x800  ; DRAM: behind the program
.output height=4 width=2 channels=16               ; DRAM: behind the input, 0x840

; parameter rows: 0..2 a block, 3..6 the first table, 7..10 the second
  load   memory=param dram_addr=0 run=704
  load   dram_addr=0x800 run=64 push=vector

  vgeom  source=sum in_h=2 in_w=2 row_pitch=2 pixel_pitch=1 out_row_pitch=2 out_pixel_pitch=1 src_unsigned=1 residual=1 res_unsigned=1 product=1 clamp_high=255 table=1
  table  param_addr=3 pop=load
  vec    tile_h=2 tile_w=2 out_base=4 lanes=16
  table  param_addr=7
  vec    tile_h=2 tile_w=2 out_base=8 res_base=1 lanes=16 push=store
  store  dram_addr=0x840 run=128 addr=4 pop=vector
  halt

.data constants
; parameter block: bias | multiplier 2 and shift 1 | second multiplier, which nothing uses
0000: 00000000 00000000 00000000 00000000
0010: 00000000 00000000 00000000 00000000
0020: 00000000 00000000 00000000 00000000
0030: 00000000 00000000 00000000 00000000
0040: 02000100 02000100 02000100 02000100
0050: 02000100 02000100 02000100 02000100
0060: 02000100 02000100 02000100 02000100
0070: 02000100 02000100 02000100 02000100
0080: 00000000 00000000 00000000 00000000
0090: 00000000 00000000 00000000 00000000
00a0: 00000000 00000000 00000000 00000000
00b0: 00000000 00000000 00000000 00000000
; 255 - x
00c0: fffefdfc fbfaf9f8 f7f6f5f4 f3f2f1f0
00d0: efeeedec ebeae9e8 e7e6e5e4 e3e2e1e0
00e0: dfdedddc dbdad9d8 d7d6d5d4 d3d2d1d0
00f0: cfcecdcc cbcac9c8 c7c6c5c4 c3c2c1c0
0100: bfbebdbc bbbab9b8 b7b6b5b4 b3b2b1b0
0110: afaeadac abaaa9a8 a7a6a5a4 a3a2a1a0
0120: 9f9e9d9c 9b9a9998 97969594 93929190
0130: 8f8e8d8c 8b8a8988 87868584 83828180
0140: 7f7e7d7c 7b7a7978 77767574 73727170
0150: 6f6e6d6c 6b6a6968 67666564 63626160
0160: 5f5e5d5c 5b5a5958 57565554 53525150
0170: 4f4e4d4c 4b4a4948 47464544 43424140
0180: 3f3e3d3c 3b3a3938 37363534 33323130
0190: 2f2e2d2c 2b2a2928 27262524 23222120
01a0: 1f1e1d1c 1b1a1918 17161514 13121110
01b0: 0f0e0d0c 0b0a0908 07060504 03020100
; 16 sqrt(x)
01c0: 0010171c 2024272a 2d303335 373a3c3e
01d0: 40424446 48494b4d 4e505253 55565859
01e0: 5b5c5d5f 60616364 65666869 6a6b6d6e
01f0: 6f707172 73747677 78797a7b 7c7d7e7f
0200: 80818283 84858687 88898a8b 8b8c8d8e
0210: 8f909192 93949495 96979899 999a9b9c
0220: 9d9e9e9f a0a1a2a2 a3a4a5a6 a6a7a8a9
0230: a9aaabac acadaeaf afb0b1b1 b2b3b4b4
0240: b5b6b6b7 b8b9b9ba bbbbbcbd bdbebfbf
0250: c0c1c1c2 c3c3c4c5 c5c6c7c7 c8c8c9ca
0260: cacbcccc cdcececf cfd0d1d1 d2d2d3d4
0270: d4d5d5d6 d7d7d8d8 d9dadadb dbdcdddd
0280: dededfdf e0e1e1e2 e2e3e3e4 e5e5e6e6
0290: e7e7e8e8 e9eaeaeb ebececed edeeeeef
02a0: eff0f1f1 f2f2f3f3 f4f4f5f5 f6f6f7f7
02b0: f8f8f9f9 fafafbfb fcfcfdfd fefeffff
