// The alternative to a lane's table: a piecewise-linear function of a byte, 16 segments of equal length, each with a
// slope of 8 and an offset of 16 bits; one shift for all. What lane_table.sv is compared with (area.py).
module plain_pwl (
    input  logic               clk,
    input  logic               write,
    input  logic        [ 3:0] segment,
    input  logic        [23:0] data,
    input  logic        [ 3:0] shift,
    input  logic               is_unsigned,  // the result
    input  logic               look_up,
    input  logic        [15:0] value,
    output logic        [15:0] result
);

  logic        [15:0][23:0] held;
  logic        [23:0]       line;
  logic signed [17:0]       sum, part, rounded, low, high;

  assign line = held[value[7:4]];
  assign sum = 18'($signed(line[7:0])) * 18'($signed({1'b0, value[3:0]})) + 18'($signed(line[23:8]));
  assign part = sum >>> (shift - 4'd1);
  assign rounded = (part + 18'sd1) >>> 1;
  assign low = is_unsigned ? 18'sd0 : -18'sd128;
  assign high = is_unsigned ? 18'sd255 : 18'sd127;

  always_ff @(posedge clk) begin
    if (write) held[segment] <= data;
    if (!look_up) result <= value;
    else if (rounded < low) result <= 16'(low);
    else if (rounded > high) result <= 16'(high);
    else result <= rounded[15:0];
  end

endmodule
