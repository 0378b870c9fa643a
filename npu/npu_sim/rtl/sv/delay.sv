// A value, CYCLES later. The skew of the array is made of these.
module delay #(
    parameter int unsigned WIDTH  = 1,
    parameter int unsigned CYCLES = 1
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] d,
    output logic [WIDTH-1:0] q
);

  if (CYCLES == 0) begin : g_wire
    assign q = d;
    logic unused;
    assign unused = &{1'b0, clk, rst};
  end else begin : g_line
    logic [CYCLES*WIDTH-1:0] line;
    always_ff @(posedge clk) begin
      if (rst) line <= '0;
      else line <= (CYCLES * WIDTH)'({line, d});
    end
    assign q = line[CYCLES*WIDTH-1-:WIDTH];
  end

endmodule
