// A lane with its table on an array of one column, and the control beside it: what rtl_lane.cpp drives, a slot per cycle.
module rtl_lane (
    input  logic               clk,
    input  logic        [ 2:0] param_write,
    input  logic               table_write,
    input  logic        [ 6:0] row,
    input  logic        [31:0] word,        // a parameter row or a sum
    input  logic               sum_write,
    input  logic signed [ 8:0] residual,
    input  logic               go,
    input  logic               product,
    input  logic               leaky,
    input  logic               adds,
    input  logic               look_up,
    input  logic signed [15:0] low,
    input  logic signed [15:0] high,
    output logic               valid,
    output logic        [15:0] result
);

  typedef struct packed {
    logic               go, raw, leaky, adds, look_up;
    logic        [ 6:0] row;
    logic signed [15:0] low, high;
  } control_t;

  control_t [7:2] later;
  control_t [7:1] at;
  logic [31:0] clamped;

  always_ff @(posedge clk) later <= at[6:1];
  assign at = {later, go, table_write, leaky, adds, look_up, row, low, high};

  vector_lane u_lane (
      .clk,
      .param_write,
      .param(word),
      .sum_write_1(sum_write),
      .sum_i(word),
      .residual_i(residual),
      .product_1(product),
      .raw({at[5].raw, at[4].raw, at[3].raw, at[2].raw, at[1].raw}),
      .leaky_3(at[3].leaky),
      .residual_4(at[4].adds),
      .low_5(at[5].low),
      .high_5(at[5].high),
      .clamped
  );
  lane_table #(
      .COLS(1)
  ) u_table (
      .clk,
      .write(at[6].raw),
      .row(at[6].row),
      .data(clamped),
      .look_up(at[6].look_up),
      .value(clamped[15:0]),
      .result
  );
  assign valid = at[7].go;

endmodule
