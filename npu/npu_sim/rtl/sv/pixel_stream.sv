// Streams the pixels of a pass: a pixel takes as many cycles as the bank factor, in each of which every bank delivers
// at most one word. Each entry has its own address and its own padding test.
module pixel_stream #(
    parameter int unsigned SEGMENTS = 4
) (
    input  logic                                            clk,
    input  logic                                            rst,
    input  logic                                            start,
    input  engine_pkg::pass_t                               plan_pass,
    input  engine_pkg::tile_t                               plan_tile,
    input  logic [SEGMENTS-1:0][engine_pkg::ENTRY_BITS-1:0] plan_entries,
    output logic                                            streaming,  // a pass that started before has a cycle left
    // activation memory: data in the next cycle
    output logic [SEGMENTS-1:0]       act_read,
    output logic [SEGMENTS-1:0][23:0] act_address,
    // this cycle's part of the pixel
    output logic                                            active,
    output logic                                            complete,  // all words of the pixel are read
    output engine_pkg::flags_t                              flags,
    output logic                                            is_dynamic,
    output logic [SEGMENTS-1:0]                             arrives,   // this entry's word is read now
    output logic [SEGMENTS-1:0]                             in_image,  // the tap lies in the image
    output logic [SEGMENTS-1:0][engine_pkg::ENTRY_BITS-1:0] entries,
    output engine_pkg::acc_t                                acc
);

  typedef struct packed {
    logic        [15:0] row;
    logic        [15:0] col;
    logic signed [25:0] y;
    logic signed [25:0] x;
    logic        [23:0] line;     // word of the row's first pixel
    logic        [23:0] address;
    logic        [15:0] acc_row;
    logic        [6:0]  turn;
  } place_t;

  engine_pkg::pass_t pass, pass_q;
  engine_pkg::tile_t tile, tile_q;
  logic [SEGMENTS-1:0][engine_pkg::ENTRY_BITS-1:0] entries_q;
  place_t place, place_q, next;

  // the first cycle works on the plan itself
  assign pass = streaming ? pass_q : plan_pass;
  assign tile = streaming ? tile_q : plan_tile;
  assign entries = streaming ? entries_q : plan_entries;
  assign place = streaming ? place_q
      : {32'b0, plan_tile.y, plan_tile.x, plan_tile.address, plan_tile.address, plan_tile.acc_row, 7'b0};

  logic row_end, tile_end;
  assign active = start || streaming;
  assign complete = place.turn == pass.last_turn;
  assign row_end = place.col == tile.last_col;
  assign tile_end = row_end && place.row == tile.last_row;

  always_comb begin
    next = place;
    if (!complete) next.turn = place.turn + 1'b1;
    else begin
      next.turn = '0;
      next.acc_row = place.acc_row + 1'b1;
      if (!row_end) begin
        next.col = place.col + 1'b1;
        next.x = $signed(place.x) + $signed({18'b0, tile.stride_x});
        next.address = place.address + tile.step_x;
      end else begin
        next.col = '0;
        next.x = tile.x;
        next.row = place.row + 1'b1;
        next.y = $signed(place.y) + $signed({18'b0, tile.stride_y});
        next.line = place.line + tile.step_y;
        next.address = next.line;
      end
    end
  end

  always_ff @(posedge clk) begin
    streaming <= !rst && active && !(complete && tile_end);
    pass_q <= pass;
    tile_q <= tile;
    entries_q <= entries;
    place_q <= next;
  end

  for (genvar i = 0; i < SEGMENTS; i++) begin : g_entry
    engine_pkg::entry_t entry;
    logic signed [25:0] y, x;
    assign entry = entries[i];
    assign y = $signed(place.y) + $signed({10'b0, entry.dy});
    assign x = $signed(place.x) + $signed({10'b0, entry.dx});
    assign in_image[i] = entry.valid && y >= 0 && y < $signed({10'b0, tile.in_h}) && x >= 0
        && x < $signed({10'b0, tile.in_w});
    assign arrives[i] = entry.turn == place.turn;
    assign act_read[i] = active && in_image[i] && arrives[i];
    assign act_address[i] = place.address + entry.offset;
    logic unused;
    assign unused = &{1'b0, entry};
  end

  assign flags = {start, pass.form4, tile.is_unsigned};
  assign is_dynamic = tile.is_dynamic;
  assign acc = {
    active && complete, tile.half, place.acc_row, pass.accumulate, pass.last_pass && tile_end
  };

endmodule
