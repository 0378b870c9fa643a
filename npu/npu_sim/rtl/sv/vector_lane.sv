// One lane of the vector engine from its sum on: bias, multiply, residual, round and clamp (PIPELINES.md section 4). Its
// area is measured; the register-level model is the engine. Control comes from beside the lanes; the number at the end of
// its name is the stage in which it acts. A row of the table passes every stage as it is.
module vector_lane (
    input  logic               clk,
    input  logic        [ 2:0] param_write,  // stage 1: bias | multiplier and shift | second multiplier
    input  logic        [31:0] param,
    input  logic               sum_write_1,
    input  logic signed [31:0] sum_i,
    input  logic signed [ 8:0] residual_i,
    input  logic               product_1,    // the byte of the slot before times this slot's residual
    input  logic        [ 5:1] raw,
    input  logic               leaky_3,
    input  logic               residual_4,   // it is added
    input  logic signed [15:0] low_5,
    input  logic signed [15:0] high_5,
    output logic        [31:0] clamped       // a value of 16 bits, or a row
);

  logic signed [31:0] bias, sum;
  logic signed [15:0] mult, mult2;
  logic        [ 5:0] shift, shift3, shift4;
  logic signed [ 8:0] res1, res2, res3;
  logic signed [32:0] biased;
  logic signed [48:0] scaled;
  logic signed [49:0] added, part, rounded;

  assign part = added >>> (shift4 - 6'd1);
  assign rounded = (part + 50'sd1) >>> 1;

  always_ff @(posedge clk) begin
    if (param_write[0]) bias <= param;
    if (param_write[1]) {shift, mult} <= param[21:0];
    if (param_write[2]) mult2 <= param[15:0];

    if (raw[1]) sum <= param;
    else if (product_1) sum <= 32'($signed(sum[8:0]) * 18'(residual_i));
    else if (sum_write_1) sum <= sum_i;
    res1 <= residual_i;
    res2 <= res1;
    res3 <= res2;

    biased <= raw[2] ? 33'(sum) : 33'(sum) + 33'(bias);

    scaled <= raw[3] ? 49'(biased) : 49'(biased) * 49'(leaky_3 && biased < 0 ? mult2 : mult);
    shift3 <= shift;

    added <= raw[4] || !residual_4 ? 50'(scaled) : 50'(scaled) + 50'(25'(res3) * 25'(mult2));
    shift4 <= shift3;

    if (raw[5]) clamped <= added[31:0];
    else if (rounded < 50'(low_5)) clamped <= 32'(low_5);
    else if (rounded > 50'(high_5)) clamped <= 32'(high_5);
    else clamped <= rounded[31:0];
  end

endmodule
