// Extraction of 4 of 8 bits at position s: add half, shift, clamp to -8..7 or 0..15.
module lower4 (
    input  logic       is_unsigned,
    input  logic [7:0] value,
    input  logic [2:0] s,  // 0..4
    output logic [3:0] code
);

  logic [4:0] half;
  assign half = (5'd1 << s) >> 1;

  logic signed [9:0] shifted;
  assign shifted = ($signed({{2{value[7] & ~is_unsigned}}, value}) + $signed({5'b0, half})) >>> s;

  always_comb begin
    if (is_unsigned) code = shifted > 10'sd15 ? 4'd15 : shifted[3:0];
    else if (shifted > 10'sd7) code = 4'd7;
    else if (shifted < -10'sd8) code = 4'd8;
    else code = shifted[3:0];
  end

endmodule
