// Prepares a pass while the one before still runs: loads its weights into the shadow registers, WGT_ROWS array rows per
// cycle, and writes its list of entries, one per segment, with the bank factor. ROWS x SEGMENTS / WGT_ROWS cycles.
module pass_planner #(
    parameter int unsigned SEGMENTS = 4,
    parameter int unsigned ROWS = 8,  // of a segment
    parameter int unsigned COLS = 32,
    parameter int unsigned WGT_ROWS = 1,
    parameter int unsigned BANKS = 8,
    parameter int unsigned DYNAMIC = 0  // 1: positions are found, and the swap comes a cycle later
) (
    input  logic                                            clk,
    input  logic                                            rst,
    input  npu_pkg::geom_t                                  geom,
    input  npu_pkg::conv_t                                  conv,
    input  logic [8:0]                                      low,
    input  logic                                            go,         // first cycle of the load
    input  logic                                            used,       // the pass starts: the plan is free again
    output logic                                            busy,
    output logic                                            ready,
    output logic [SEGMENTS-1:0][engine_pkg::ENTRY_BITS-1:0] entries,
    output logic                                            form4,
    output logic [6:0]                                      last_turn,
    output logic                                            last_pass,  // of the conv
    // group table
    output logic [7:0] place,
    input  logic [7:0] group,
    input  logic [2:0] s_act,
    // weight memory: data in the next cycle
    output logic                                 wgt_read,
    output logic [27:0]                          wgt_address,  // bytes
    input  logic [2*WGT_ROWS-1:0][COLS-1:0][7:0] wgt_data,
    output logic                                 pos_read,
    output logic [23:0]                          pos_address,  // words of 16 bytes
    input  logic [COLS-1:0][3:0]                 pos_data,
    // array
    output engine_pkg::wload_t                 wload,
    output logic [COLS-1:0][2:0]               wload_s_wgt,
    output logic [COLS-1:0][WGT_ROWS-1:0][7:0] wload_wgt
);

  localparam int unsigned POSITION_WORDS = (COLS + 2 * npu_pkg::GROUP_CHANNELS - 1) / (2 * npu_pkg::GROUP_CHANNELS);

  // -- counting rows
  logic [10:0] row, row_q;
  logic last_row, first_of_entry;
  logic [6:0] segment;
  assign row = busy ? row_q : '0;
  assign last_row = row == 11'(SEGMENTS * ROWS - WGT_ROWS);
  assign segment = 7'(row / 11'(ROWS));
  assign first_of_entry = row % 11'(ROWS) == '0;

  always_ff @(posedge clk) begin
    row_q <= row + 11'(WGT_ROWS);
    if (rst) begin
      busy  <= 1'b0;
      ready <= 1'b0;
    end else begin
      busy  <= (go || busy) && !last_row;
      ready <= ((go || busy) && last_row) || (ready && !used);
    end
  end

  // -- entries
  logic open, open_q, append, part_end, conv_end, walk_form4;
  logic [8:0] walk_place;
  logic [15:0] tap, dy, dx;
  logic [2:0] piece;
  logic [40:0] tap_offset;
  assign open = go || open_q;
  assign append = (go || busy) && first_of_entry && open;
  assign place = 8'(walk_place + 9'(conv.group_first));

  entry_walker #(
      .ROWS(ROWS)
  ) u_walker (
      .clk(clk),
      .rst(rst),
      .geom(geom),
      .low(low),
      .count(conv.group_count),
      .step(append),
      .form4(walk_form4),
      .place(walk_place),
      .tap(tap),
      .piece(piece),
      .dy(dy),
      .dx(dx),
      .offset(tap_offset),
      .part_end(part_end),
      .conv_end(conv_end)
  );

  // the word's turn: different words of one bank come one after the other, a word read twice comes once
  logic [SEGMENTS-1:0][41:0] offsets;
  logic [SEGMENTS-1:0][6:0] turns;
  logic [SEGMENTS-1:0] again;  // an entry before it reads the same word
  logic [41:0] offset;
  logic [6:0] turn;
  logic same;
  assign offset = 42'(tap_offset) + 42'(group);
  always_comb begin
    turn = '0;
    same = 1'b0;
    for (int unsigned j = 0; j < SEGMENTS; j++) begin
      if (7'(j) < segment) begin
        if (offsets[j] == offset) same = 1'b1;
        if (offsets[j] % 42'(BANKS) == offset % 42'(BANKS) && !again[j]) turn = turn + 1'b1;
      end
    end
    for (int unsigned j = 0; j < SEGMENTS; j++) if (7'(j) < segment && offsets[j] == offset) turn = turns[j];
  end

  always_ff @(posedge clk) begin
    if (go) last_turn <= '0;
    if (go) form4 <= walk_form4;
    if (go || busy) begin
      open_q <= open && !(append && part_end);
      last_pass <= append && conv_end || (last_pass && !go);
    end
    for (int unsigned i = 0; i < SEGMENTS; i++) begin
      if (go) entries[i] <= '0;
      if (append && segment == 7'(i)) begin
        entries[i] <= {1'b1, dy, dx, 24'(offset), piece, s_act, turn};
        offsets[i] <= offset;
        turns[i] <= turn;
        again[i] <= same;
      end
    end
    if (append && !go && turn > last_turn) last_turn <= turn;
  end

  // -- weight memory: the entry's first row is at `base`
  logic reading, reading_q;
  logic [27:0] base, base_q;
  logic [27:0] block;
  assign reading = (go || busy) && (first_of_entry ? append : reading_q);
  assign block = 28'(conv.weight_addr) + 28'(conv.group_count) * 28'(POSITION_WORDS)
      + (28'(walk_place) * (28'(geom.kernel_h) * 28'(geom.kernel_w)) + 28'(tap)) * 28'(COLS);
  assign base = !first_of_entry ? base_q
      : (block << 4) + 28'(piece) * (walk_form4 ? 28'(2 * ROWS * COLS) : 28'(ROWS * COLS));

  logic load_form4;
  logic [2:0] load_row;
  logic [27:0] load_address;
  logic [23:0] load_positions;
  assign load_form4 = go ? walk_form4 : form4;
  assign load_row = 3'(row % 11'(ROWS));
  assign load_address = base + 28'(load_row) * (load_form4 ? 28'(2 * COLS) : 28'(COLS));
  assign load_positions = conv.weight_addr + 24'(walk_place) * 24'(POSITION_WORDS);

  // the shadow registers can be written neither sooner after the swap nor later before it
  logic read_form4;
  engine_pkg::wload_t read;
  delay #(
      .WIDTH (28 + 1 + 24 + 1 + $bits(read)),
      .CYCLES(DYNAMIC)
  ) u_late (
      .clk(clk),
      .rst(rst),
      .d  ({load_address, append && walk_form4, load_positions, load_form4, reading, segment, load_row}),
      .q  ({wgt_address, pos_read, pos_address, read_form4, read})
  );
  assign wgt_read = read.valid;

  always_ff @(posedge clk) begin
    reading_q <= reading;
    base_q <= base;
  end

  // -- a cycle later the bytes arrive, in the next one they are extracted, and then they enter the array
  logic arrives_first, arrives_form4, there_form4;
  engine_pkg::wload_t arrives, there;
  logic [2*WGT_ROWS-1:0][COLS-1:0][7:0] bytes;
  logic [COLS-1:0][2:0] s_wgt;
  logic [COLS-1:0][WGT_ROWS-1:0][7:0] extracted;

  for (genvar c = 0; c < COLS; c++) begin : g_col
    logic [16*WGT_ROWS-1:0] column;
    for (genvar i = 0; i < 2 * WGT_ROWS; i++) begin : g_byte
      assign column[8*i+:8] = bytes[i][c];
    end
    always_ff @(posedge clk) if (arrives_first) s_wgt[c] <= pos_data[c][2:0];
    weight_extract #(
        .WGT_ROWS(WGT_ROWS)
    ) u_extract (
        .form4(there_form4),
        .s_wgt(s_wgt[c]),
        .bytes(column),
        .rows(extracted[c])
    );
  end

  always_ff @(posedge clk) begin
    arrives_first <= pos_read;
    arrives_form4 <= read_form4;
    arrives <= read;
    arrives.valid <= read.valid && !rst;
    bytes <= wgt_data;
    there_form4 <= arrives_form4;
    there <= arrives;
    there.valid <= arrives.valid && !rst;
    wload <= there;
    wload.valid <= there.valid && !rst;
    wload_s_wgt <= s_wgt;
    wload_wgt <= extracted;
  end

  logic unused;
  assign unused = &{1'b0, pos_data, conv};

endmodule
