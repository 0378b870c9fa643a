// R x C weight-stationary array with its skew: row r of segment k runs r + k cycles behind row 0, column c c cycles
// behind column 0, for activations, weights and sums alike.
module systolic_array #(
    parameter int unsigned SEGMENTS = 4,
    parameter int unsigned ROWS = 8,      // of a segment
    parameter int unsigned COLS = 32,
    parameter int unsigned WGT_ROWS = 1,
    parameter int unsigned TOTAL_BITS = 22
) (
    input  logic                               clk,
    input  logic                               rst,
    input  logic [SEGMENTS-1:0][ROWS-1:0][7:0] act,   // one pixel, all rows
    input  engine_pkg::flags_t                 flags,
    input  logic [SEGMENTS-1:0][2:0]           s_act,
    input  engine_pkg::wload_t                 wload,
    input  logic [COLS-1:0][2:0]               s_wgt,
    input  logic [COLS-1:0][WGT_ROWS-1:0][7:0] wgt,
    output logic [COLS-1:0][TOTAL_BITS-1:0]    total  // column c: of the pixel c cycles before
);

  // -- activations, flags and tags enter on the left, skewed by row
  for (genvar k = 0; k < SEGMENTS; k++) begin : g_enter
    logic [ROWS*engine_pkg::LANE_BITS-1:0] lanes_k;
    engine_pkg::tag_t tag_k;
    for (genvar r = 0; r < ROWS; r++) begin : g_row
      delay #(
          .WIDTH (engine_pkg::LANE_BITS),
          .CYCLES(k + r)
      ) u_skew (
          .clk(clk),
          .rst(rst),
          .d  ({flags, act[k][r]}),
          .q  (lanes_k[r*engine_pkg::LANE_BITS+:engine_pkg::LANE_BITS])
      );
    end
    delay #(
        .WIDTH ($bits(tag_k)),
        .CYCLES(k + ROWS)
    ) u_tag (
        .clk(clk),
        .rst(rst),
        .d  ({flags.swap, flags.form4, s_act[k]}),
        .q  (tag_k)
    );
  end

  // -- weights enter on top, skewed by column
  for (genvar c = 0; c < COLS; c++) begin : g_top
    engine_pkg::wload_t wload_c;
    logic [2:0] s_wgt_c;
    logic [WGT_ROWS*8-1:0] wgt_c;
    delay #(
        .WIDTH ($bits(wload) + 3 + 8 * WGT_ROWS),
        .CYCLES(c)
    ) u_skew (
        .clk(clk),
        .rst(rst),
        .d  ({wload, s_wgt[c], wgt[c]}),
        .q  ({wload_c, s_wgt_c, wgt_c})
    );
  end

  for (genvar c = 0; c < COLS; c++) begin : g_col
    for (genvar k = 0; k < SEGMENTS; k++) begin : g_seg
      logic [ROWS*engine_pkg::LANE_BITS-1:0] lanes_i, lanes_o;
      engine_pkg::tag_t tag_i, tag_o;
      engine_pkg::wload_t wload_i, wload_o;
      logic [2:0] s_wgt_i, s_wgt_o;
      logic [WGT_ROWS*8-1:0] wgt_i, wgt_o;
      logic signed [TOTAL_BITS-1:0] total_i, total_o;
      if (c == 0) begin : g_left
        assign lanes_i = g_enter[k].lanes_k;
        assign tag_i   = g_enter[k].tag_k;
      end else begin : g_inner
        assign lanes_i = g_col[c-1].g_seg[k].lanes_o;
        assign tag_i   = g_col[c-1].g_seg[k].tag_o;
      end
      if (k == 0) begin : g_upper
        assign total_i = '0;
        assign wload_i = g_top[c].wload_c;
        assign s_wgt_i = g_top[c].s_wgt_c;
        assign wgt_i   = g_top[c].wgt_c;
      end else begin : g_lower
        assign total_i = g_col[c].g_seg[k-1].total_o;
        assign wload_i = g_col[c].g_seg[k-1].wload_o;
        assign s_wgt_i = g_col[c].g_seg[k-1].s_wgt_o;
        assign wgt_i   = g_col[c].g_seg[k-1].wgt_o;
      end
      segment #(
          .ROWS(ROWS),
          .WGT_ROWS(WGT_ROWS),
          .TOTAL_BITS(TOTAL_BITS)
      ) u_segment (
          .clk(clk),
          .lanes_i(lanes_i),
          .tag_i(tag_i),
          .wload_i(wload_i),
          .s_wgt_i(s_wgt_i),
          .wgt_i(wgt_i),
          .total_i(total_i),
          .lanes_o(lanes_o),
          .tag_o(tag_o),
          .wload_o(wload_o),
          .s_wgt_o(s_wgt_o),
          .wgt_o(wgt_o),
          .total_o(total_o)
      );
      // nothing reads what leaves the array on the right and at the bottom
      logic unused;
      if (c == COLS - 1) begin : g_right
        assign unused = &{1'b0, lanes_o, tag_o};
      end
      if (k == SEGMENTS - 1) begin : g_bottom
        logic unused_load;
        assign unused_load = &{1'b0, wload_o, s_wgt_o, wgt_o};
      end
    end
    assign total[c] = g_col[c].g_seg[SEGMENTS-1].total_o;
  end

endmodule
