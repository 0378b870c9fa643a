// What rtl_arithmetic.cpp drives.
module rtl_arithmetic (
    input  logic               form4,
    input  logic               is_unsigned,
    input  logic        [ 7:0] act,
    input  logic        [ 7:0] wgt,
    input  logic        [ 2:0] s,
    output logic signed [15:0] product,
    output logic        [ 3:0] code
);

  multiplier u_multiplier (.form4, .is_unsigned, .act, .wgt, .product);
  lower4 u_lower (.is_unsigned, .value(act), .s, .code);

endmodule
