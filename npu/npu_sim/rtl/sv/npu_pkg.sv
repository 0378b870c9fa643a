// The instruction set and the timing constants. Made from isa.toml by `python -m npu_sim.rtl.package`: do not edit.
package npu_pkg;

  // for every engine: the matrix engine uses a part
  // verilator lint_off UNUSEDPARAM
  localparam int unsigned WORD_BITS = 256;
  localparam int unsigned GROUP_CHANNELS = 16;
  localparam int unsigned SEGMENT_ROWS = 8;
  localparam int unsigned TABLE_ENTRIES_PER_WORD = 16;
  localparam int unsigned BOUNDARY_REGISTERS = 256;
  localparam int unsigned MAX_GROUPS = 256;
  localparam int unsigned TABLE_BYTES = 256;
  localparam int unsigned ENGINES = 4;
  localparam int unsigned ENGINE_LOAD = 0;
  localparam int unsigned ENGINE_MATRIX = 1;
  localparam int unsigned ENGINE_VECTOR = 2;
  localparam int unsigned ENGINE_STORE = 3;
  localparam int unsigned DISPATCH_CYCLES = 1;
  localparam int unsigned SETUP_CYCLES = 1;
  localparam int unsigned SHADOW_FREE_CYCLES = 8;
  localparam int unsigned ACT_READ_CYCLES = 2;
  localparam int unsigned FIND_POSITION_CYCLES = 1;
  localparam int unsigned SEGMENT_CYCLES = 8;
  localparam int unsigned ACC_WRITE_CYCLES = 3;
  localparam int unsigned VECTOR_PIPELINE_CYCLES = 7;
  localparam int unsigned PARAM_ROWS = 3;
  localparam int unsigned DMA_BLOCK_BYTES = 1024;
  localparam int unsigned BOUNDARY_WRITE_CYCLES = 1;
  localparam int unsigned START_CYCLES = 1;

  typedef logic [255:0] word_t;
  // a word has bits that are no field of the instruction asked for
  // verilator lint_off UNUSEDSIGNAL
  function automatic logic [7:0] opcode(input word_t word);
    opcode = word[7:0];
  endfunction
  function automatic logic [3:0] pop(input word_t word);
    pop = word[11:8];
  endfunction
  function automatic logic [3:0] push(input word_t word);
    push = word[15:12];
  endfunction

  // End of the program. Reached when every engine has finished everything before it; must be the last word and the only halt.
  localparam logic [7:0] OP_HALT = 8'h01;

  // Set the geometry of the convolution that the following conv instructions tile. Clears the group table.
  localparam logic [7:0] OP_GEOM = 8'h10;
  typedef struct packed {
    logic [7:0] register_;  // boundary register of the layer
    logic [7:0] kernel_h;  // kernel height, taps
    logic [7:0] kernel_w;  // kernel width, taps
    logic [7:0] stride_y;  // vertical stride, pixels
    logic [7:0] stride_x;  // horizontal stride, pixels
    logic [7:0] dilation_y;  // vertical distance of taps, pixels
    logic [7:0] dilation_x;  // horizontal distance of taps, pixels
    logic signed [15:0] pad_top;  // zero rows above; negative crops
    logic signed [15:0] pad_left;  // zero columns on the left; negative crops
    logic [15:0] in_h;  // height of the whole input, pixels
    logic [15:0] in_w;  // width of the whole input, pixels
    logic [23:0] row_pitch;  // words from an input row to the next
    logic [15:0] pixel_pitch;  // words from an input pixel to the next
    logic [0:0] unsigned_;  // 1: input bytes are 0..255, else -128..127
    logic [0:0] tap_fastest;  // order of the (tap, group) list: 1 taps run fastest, 0 groups
    logic [0:0] dynamic;  // 1: each group of a pixel has the position that its values ask for, less what the place clips; needs dynamic_extraction
  } geom_t;
  function automatic geom_t get_geom(input word_t word);
    get_geom = {word[23:16], word[31:24], word[39:32], word[47:40], word[55:48], word[63:56], word[71:64], word[87:72], word[103:88], word[119:104], word[135:120], word[159:136], word[175:160], word[176:176], word[177:177], word[178:178]};
  endfunction

  // Fill 16 consecutive entries of the group table: which input group stands at a place of the layer's order, and its activation position.
  localparam logic [7:0] OP_GROUPS = 8'h11;
  typedef struct packed {
    logic [7:0] first;  // place in the order of entry 0; a multiple of 16
    logic [15:0][7:0] group;  // input group (word offset inside the pixel)
    logic [15:0][2:0] shift;  // s_act of the place; dynamic: the positions that it clips
  } groups_t;
  function automatic groups_t get_groups(input word_t word);
    get_groups = {word[23:16], word[151:24], word[199:152]};
  endfunction

  // Convolve one tile of output pixels with one column tile of weights into accumulator rows; 4-bit passes for places below the boundary, then 8-bit passes.
  localparam logic [7:0] OP_CONV = 8'h12;
  typedef struct packed {
    logic [23:0] act_base;  // word address of pixel (act_row0, 0) of the input, group 0
    logic signed [15:0] act_row0;  // input row that stands at act_base
    logic [15:0] out_y;  // first output row of the tile
    logic [15:0] out_x;  // first output column of the tile
    logic [15:0] tile_h;  // output rows of the tile
    logic [15:0] tile_w;  // output columns of the tile
    logic [0:0] acc_half;  // accumulator half
    logic [15:0] acc_row;  // first accumulator row; pixel i of the tile uses acc_row + i
    logic [0:0] accumulate;  // 0: the first pass overwrites, 1: adds to what is there
    logic [23:0] weight_addr;  // weight memory address of the tile's block, units of 16 bytes
    logic [7:0] group_first;  // first place of the order that this instruction covers
    logic [8:0] group_count;  // places covered
  } conv_t;
  function automatic conv_t get_conv(input word_t word);
    get_conv = {word[39:16], word[55:40], word[71:56], word[87:72], word[103:88], word[119:104], word[120:120], word[136:121], word[137:137], word[161:138], word[169:162], word[178:170]};
  endfunction

  // Set what the following vec instructions do: source, window, pitches, residual, clamp, table.
  localparam logic [7:0] OP_VGEOM = 8'h20;
  typedef struct packed {
    logic [1:0] source;  // accumulators, or a window's multiply-add, maximum or sum
    logic [7:0] kernel_h;  // window height (1 for accumulators)
    logic [7:0] kernel_w;  // window width
    logic [7:0] stride_y;  // vertical stride, pixels
    logic [7:0] stride_x;  // horizontal stride, pixels
    logic [3:0] dilation_y;  // vertical distance of taps, pixels
    logic [3:0] dilation_x;  // horizontal distance of taps, pixels
    logic signed [12:0] pad_top;  // rows outside above: zero, or ignored by a maximum; negative crops
    logic signed [12:0] pad_left;  // columns outside on the left
    logic [11:0] in_h;  // height of the whole source, pixels
    logic [11:0] in_w;  // width of the whole source, pixels
    logic [15:0] row_pitch;  // source: words from a row to the next
    logic [11:0] pixel_pitch;  // source: words from a pixel to the next
    logic [15:0] out_row_pitch;  // output: words from a row to the next
    logic [11:0] out_pixel_pitch;  // output: words from a pixel to the next
    logic [15:0] res_row_pitch;  // residual: words from a row to the next
    logic [11:0] res_pixel_pitch;  // residual: words from a pixel to the next
    logic [0:0] src_unsigned;  // 1: source bytes are 0..255
    logic [0:0] residual;  // 1: a residual operand, added with the second multiplier unless product is set
    logic [0:0] res_unsigned;  // 1: residual bytes are 0..255
    logic [0:0] leaky;  // 1: the second multiplier serves values below zero; excludes residual
    logic [0:0] wide;  // 1: 16-bit output, a word of low bytes and then a word of high bytes per group
    logic signed [15:0] clamp_low;  // least output
    logic signed [15:0] clamp_high;  // largest output
    logic [0:0] product;  // 1: the residual operand multiplies the byte of a 1 x 1 sum, in place of being added
    logic [0:0] table_;  // 1: the clamped byte is looked up in the table; excludes wide
  } vgeom_t;
  function automatic vgeom_t get_vgeom(input word_t word);
    get_vgeom = {word[17:16], word[25:18], word[33:26], word[41:34], word[49:42], word[53:50], word[57:54], word[70:58], word[83:71], word[95:84], word[107:96], word[123:108], word[135:124], word[151:136], word[163:152], word[179:164], word[191:180], word[192:192], word[193:193], word[194:194], word[195:195], word[196:196], word[212:197], word[228:213], word[229:229], word[230:230]};
  endfunction

  // Reduce, requantize and write one tile of output pixels times up to one column tile of channels.
  localparam logic [7:0] OP_VEC = 8'h21;
  typedef struct packed {
    logic [23:0] src_base;  // window: word address of pixel (src_row0, 0), first group of the tile; accumulators: first row
    logic signed [15:0] src_row0;  // source row that stands at src_base
    logic [0:0] acc_half;  // accumulator half
    logic [11:0] out_y;  // first output row of the tile
    logic [11:0] out_x;  // first output column of the tile
    logic [11:0] tile_h;  // output rows of the tile
    logic [11:0] tile_w;  // output columns of the tile
    logic [23:0] out_base;  // word address of the tile's first output pixel, first group
    logic [3:0] out_byte;  // first byte inside the first group's word of output, residual and window source (arrays of fewer than 16 columns)
    logic [23:0] res_base;  // word address of the tile's first residual pixel, first group
    logic [15:0] param_addr;  // parameter memory: first row of the block (see isa_spec/MICROARCHITECTURE.md)
    logic [9:0] lanes;  // channels written: whole groups, or all columns of a smaller array
    logic [0:0] fence;  // 1: start only when the vector instruction before has written its last word
  } vec_t;
  function automatic vec_t get_vec(input word_t word);
    get_vec = {word[39:16], word[55:40], word[56:56], word[68:57], word[80:69], word[92:81], word[104:93], word[128:105], word[132:129], word[156:133], word[172:157], word[182:173], word[183:183]};
  endfunction

  // Load the engine's one table from parameter memory: 256 bytes, by the bit pattern of the byte that is looked up.
  localparam logic [7:0] OP_TABLE = 8'h22;
  typedef struct packed {
    logic [15:0] param_addr;  // parameter memory: first row; bytes in the order of the memory, from the row's beginning
  } table_t;
  function automatic table_t get_table(input word_t word);
    get_table = {word[31:16]};
  endfunction

  // Copy rows x cols runs of bytes from DRAM to a memory of the chip.
  localparam logic [7:0] OP_LOAD = 8'h30;
  typedef struct packed {
    logic [1:0] memory;  // activations, weights or parameters
    logic [31:0] dram_addr;  // byte address of the first run
    logic [11:0] rows;  // rows
    logic [11:0] cols;  // runs of a row
    logic [21:0] run;  // bytes of a run; whole words of the memory (16 bytes; parameters: 4 bytes x columns)
    logic [23:0] dram_row_pitch;  // bytes from a row to the next
    logic [15:0] dram_col_pitch;  // bytes from a run to the next
    logic [23:0] addr;  // first word of the memory
    logic [15:0] row_pitch;  // words from a row to the next
    logic [15:0] col_pitch;  // words from a run to the next
    logic [0:0] indexed;  // 1: dram_addr grows by table_pitch x boundary register
    logic [7:0] register_;  // boundary register
    logic [15:0] table_pitch;  // bytes from an entry of the table to the next
    logic [8:0] table_entries;  // entries of the table; the register must be below
  } load_t;
  function automatic load_t get_load(input word_t word);
    get_load = {word[17:16], word[49:18], word[61:50], word[73:62], word[95:74], word[119:96], word[135:120], word[159:136], word[175:160], word[191:176], word[192:192], word[200:193], word[216:201], word[225:217]};
  endfunction

  // Load an image from DRAM and gather the window of each output pixel into whole groups (im2col); positions outside are zero.
  localparam logic [7:0] OP_FOLD = 8'h31;
  typedef struct packed {
    logic [31:0] dram_addr;  // byte address of pixel (0, 0); rows follow each other without a gap
    logic [11:0] in_h;  // image height, pixels
    logic [11:0] in_w;  // image width, pixels
    logic [11:0] channels;  // bytes of a pixel
    logic [7:0] kernel_h;  // window height
    logic [7:0] kernel_w;  // window width
    logic [7:0] stride_y;  // vertical stride
    logic [7:0] stride_x;  // horizontal stride
    logic signed [12:0] pad_top;  // zero rows above
    logic signed [12:0] pad_left;  // zero columns on the left
    logic [11:0] out_y;  // first output row
    logic [11:0] rows;  // output rows
    logic [11:0] cols;  // output columns, from column 0
    logic [23:0] addr;  // first word of the activation memory
    logic [15:0] row_pitch;  // words from an output row to the next
    logic [11:0] pixel_pitch;  // words from an output pixel to the next
  } fold_t;
  function automatic fold_t get_fold(input word_t word);
    get_fold = {word[47:16], word[59:48], word[71:60], word[83:72], word[91:84], word[99:92], word[107:100], word[115:108], word[128:116], word[141:129], word[153:142], word[165:154], word[177:166], word[201:178], word[217:202], word[229:218]};
  endfunction

  // Copy rows x cols runs of bytes from the activation memory to DRAM.
  localparam logic [7:0] OP_STORE = 8'h40;
  typedef struct packed {
    logic [31:0] dram_addr;  // byte address of the first run
    logic [11:0] rows;  // rows
    logic [11:0] cols;  // runs of a row
    logic [21:0] run;  // bytes of a run; whole words
    logic [23:0] dram_row_pitch;  // bytes from a row to the next
    logic [15:0] dram_col_pitch;  // bytes from a run to the next
    logic [23:0] addr;  // first word of the activation memory
    logic [15:0] row_pitch;  // words from a row to the next
    logic [15:0] col_pitch;  // words from a run to the next
  } store_t;
  function automatic store_t get_store(input word_t word);
    get_store = {word[47:16], word[59:48], word[71:60], word[93:72], word[117:94], word[133:118], word[157:134], word[173:158], word[189:174]};
  endfunction
  // verilator lint_on UNUSEDPARAM
  // verilator lint_on UNUSEDSIGNAL
endpackage
