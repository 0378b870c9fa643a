// Weight extraction of one column: the bytes of the rows written in a cycle.
//
// 8-bit form: a byte per row. 4-bit form: the codes of two channels per row, the first in the low half-byte (the
// activations hold them the other way round, see multiplier).
module weight_extract #(
    parameter int unsigned WGT_ROWS = 1
) (
    input  logic                       form4,
    input  logic [2:0]                 s_wgt,
    input  logic [2*WGT_ROWS-1:0][7:0] bytes,
    output logic [WGT_ROWS-1:0][7:0]   rows
);

  for (genvar r = 0; r < WGT_ROWS; r++) begin : g_row
    logic [3:0] hi, lo;
    lower4 u_lo (.is_unsigned(1'b0), .value(bytes[2*r]), .s(s_wgt), .code(lo));
    lower4 u_hi (.is_unsigned(1'b0), .value(bytes[2*r+1]), .s(s_wgt), .code(hi));
    assign rows[r] = form4 ? {hi, lo} : bytes[r];
  end

endmodule
