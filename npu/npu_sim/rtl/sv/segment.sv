// Eight rows of one column (all rows of an array of 2 or 4) and their join: the segment's sum is shifted by s_act +
// s_wgt and added to the total that comes from the segment above.
module segment #(
    parameter int unsigned ROWS = 8,
    parameter int unsigned WGT_ROWS = 1,     // rows of shadow weights written per cycle
    parameter int unsigned TOTAL_BITS = 22,
    // 8 products of at most 255 x 128 in magnitude, or 8 pairs of 4-bit products times 16
    localparam int unsigned PSUM_BITS = 19
) (
    input  logic                                       clk,
    input  logic [ROWS-1:0][engine_pkg::LANE_BITS-1:0] lanes_i,
    input  engine_pkg::tag_t                           tag_i,
    input  engine_pkg::wload_t                         wload_i,
    input  logic [2:0]                                 s_wgt_i,
    input  logic [WGT_ROWS-1:0][7:0]                   wgt_i,
    input  logic signed [TOTAL_BITS-1:0]               total_i,
    output logic [ROWS-1:0][engine_pkg::LANE_BITS-1:0] lanes_o,
    output engine_pkg::tag_t                           tag_o,
    output engine_pkg::wload_t                         wload_o,
    output logic [2:0]                                 s_wgt_o,
    output logic [WGT_ROWS-1:0][7:0]                   wgt_o,
    output logic signed [TOTAL_BITS-1:0]               total_o
);

  logic load;
  assign load = wload_i.valid && wload_i.segments == '0;

  for (genvar r = 0; r < ROWS; r++) begin : g_row
    logic signed [PSUM_BITS-1:0] above, below;
    if (r == 0) begin : g_first
      assign above = '0;
    end else begin : g_next
      assign above = g_row[r-1].below;
    end
    pe #(
        .PSUM_BITS(PSUM_BITS)
    ) u_pe (
        .clk(clk),
        .lane_i(lanes_i[r]),
        .psum_i(above),
        .shadow_write(load && wload_i.row == 3'(r / WGT_ROWS * WGT_ROWS)),
        .shadow_data(wgt_i[r%WGT_ROWS]),
        .lane_o(lanes_o[r]),
        .psum_o(below)
    );
  end

  logic [2:0] shadow_shift, active_shift, s_wgt;
  assign s_wgt = tag_i.swap ? shadow_shift : active_shift;

  // in 4-bit form the sum comes times 16
  logic signed [TOTAL_BITS-1:0] sum, shifted;
  assign sum = TOTAL_BITS'(g_row[ROWS-1].below);
  assign shifted = tag_i.form4 ? (sum >>> 4) <<< (4'(tag_i.s_act) + 4'(s_wgt)) : sum;

  always_ff @(posedge clk) begin
    total_o <= total_i + shifted;
    tag_o <= tag_i;
    active_shift <= s_wgt;
    if (load && wload_i.row == '0) shadow_shift <= s_wgt_i;
    s_wgt_o <= s_wgt_i;
    wgt_o <= wgt_i;
    wload_o <= wload_i;
    wload_o.segments <= wload_i.segments - 1'b1;
    wload_o.valid <= wload_i.valid && !load;
  end

endmodule
