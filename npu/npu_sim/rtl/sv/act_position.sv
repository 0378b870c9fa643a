// The position that the values of a group ask for: the bit length of their magnitudes, joined by OR, less the bits that
// are kept (4 of unsigned values, 3 beside a sign) and the positions that the group clips; 0 if that is negative.
module act_position (
    input  logic             is_unsigned,
    input  logic [2:0]       clip,  // 0..4
    input  logic [15:0][7:0] group,
    output logic [2:0]       s
);

  logic [7:0] magnitudes;
  always_comb begin
    magnitudes = '0;
    for (int unsigned c = 0; c < 16; c++) begin
      magnitudes = magnitudes | (group[c] ^ {8{group[c][7] & ~is_unsigned}});
    end
  end

  logic [3:0] above;  // the bits kept
  logic [2:0] asked;
  assign above = is_unsigned ? magnitudes[7:4] : magnitudes[6:3];
  always_comb begin
    if (above[3]) asked = 3'd4;
    else if (above[2]) asked = 3'd3;
    else if (above[1]) asked = 3'd2;
    else asked = {2'b0, above[0]};
  end
  assign s = asked > clip ? asked - clip : '0;

  logic unused;
  assign unused = &{1'b0, magnitudes};

endmodule
