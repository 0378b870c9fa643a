// Tokens given to this engine, one counter per giver. A token can be taken in the cycle in which it is given.
module token_inbox (
    input  logic                             clk,
    input  logic                             rst,
    input  logic [npu_pkg::ENGINES-1:0][7:0] given,  // tokens that arrive in this cycle
    input  logic [npu_pkg::ENGINES-1:0]      want,
    input  logic                             take,   // only when ready
    output logic                             ready   // one token of each engine wanted is there
);

  logic [npu_pkg::ENGINES-1:0][16:0] count;
  logic [npu_pkg::ENGINES-1:0] there;

  for (genvar e = 0; e < npu_pkg::ENGINES; e++) begin : g_engine
    assign there[e] = count[e] != '0 || given[e] != '0;
    always_ff @(posedge clk) begin
      if (rst) count[e] <= '0;
      else count[e] <= count[e] + 17'(given[e]) - 17'(take & want[e]);
    end
  end

  assign ready = (want & ~there) == '0;

endmodule
