// Signed 9 x 8-bit product of one channel, or the sum of two 4-bit products, times 16.
//
// The weight is cut into half-bytes, each with a multiplier: product = a wl + 16 a wh. In 4-bit form the half-bytes of
// activation and weight are the codes of two channels, crosswise: ah belongs to wl and al to wh. The lower multiplier
// then takes 16 ah in place of a, the upper one al, and what comes out is 16 (ah wl + al wh): nothing is shifted.
module multiplier (
    input  logic               form4,
    input  logic               is_unsigned,
    input  logic [ 7:0]        act,
    input  logic [ 7:0]        wgt,
    output logic signed [15:0] product
);

  logic signed [8:0] whole, lower, upper;
  assign whole = {act[7] & ~is_unsigned, act};
  assign lower = form4 ? {whole[8:4], 4'b0} : whole;
  assign upper = form4 ? {{5{act[3] & ~is_unsigned}}, act[3:0]} : whole;

  // in 4-bit form the top bit of wl counts -8: its row is subtracted
  logic signed [8:0] top_row;
  assign top_row = (lower & {9{wgt[3]}}) ^ {9{form4}};

  assign product = 16'(lower) * 16'($signed({1'b0, wgt[2:0]})) + (16'(top_row) <<< 3) + 16'({form4, 3'b0})
      + ((16'(upper) * 16'($signed(wgt[7:4]))) <<< 4);

endmodule
