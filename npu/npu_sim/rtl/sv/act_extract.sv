// Activation extraction of one segment: a word of 16 channels becomes one byte per row.
//
// 8-bit form: row r takes channel piece * ROWS + r as it is. 4-bit form: row r takes the codes of two channels from 2 *
// (piece * ROWS + r) on, the first in the high half-byte.
module act_extract #(
    parameter int unsigned ROWS = 8
) (
    input  logic                 form4,
    input  logic                 is_unsigned,
    input  logic [2:0]           piece,
    input  logic [2:0]           s_act,
    input  logic [15:0][7:0]     word,
    output logic [ROWS-1:0][7:0] rows
);

  localparam int unsigned PIECES = npu_pkg::GROUP_CHANNELS / ROWS;

  // the piece's channels are the first ROWS (8-bit form) or 2 * ROWS of these
  logic [15:0][7:0] taken;
  always_comb begin
    taken = word;
    for (int unsigned p = 1; p < PIECES; p++) begin
      if (piece == 3'(p)) taken = form4 ? word >> (p * 2 * ROWS * 8) : word >> (p * ROWS * 8);
    end
  end

  for (genvar r = 0; r < ROWS; r++) begin : g_row
    logic [3:0] hi, lo;
    lower4 u_hi (.is_unsigned(is_unsigned), .value(taken[2*r]), .s(s_act), .code(hi));
    lower4 u_lo (.is_unsigned(is_unsigned), .value(taken[2*r+1]), .s(s_act), .code(lo));
    assign rows[r] = form4 ? {hi, lo} : taken[r];
  end

  logic unused;
  assign unused = &{1'b0, taken};

endmodule
