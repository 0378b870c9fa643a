// The accumulators of one column: read, add, write in three cycles. Two halves, a memory with one read and one write port
// each: tokens keep the vector engine away from the half that a conv uses.
module acc_column #(
    parameter int unsigned ACC_ROWS = 512,  // of a half
    parameter int unsigned TOTAL_BITS = 22
) (
    input  logic                         clk,
    input  logic                         rst,
    input  engine_pkg::acc_t             acc_i,
    input  logic signed [TOTAL_BITS-1:0] total,
    output engine_pkg::acc_t             acc_o,     // to the next column, a cycle later
    input  logic                         vec_half,
    input  logic [15:0]                  vec_row,
    output logic signed [31:0]           vec_data,  // a cycle later
    output engine_pkg::acc_t             written,   // what is written in this cycle
    output logic signed [31:0]           written_data
);

  localparam int unsigned ADDRESS_BITS = ACC_ROWS > 1 ? $clog2(ACC_ROWS) : 1;

  logic [31:0] data[2];  // read from each half
  logic vec_half_q;
  logic signed [31:0] total_q, old_sum;

  assign old_sum  = $signed(data[acc_o.half]);
  assign vec_data = $signed(data[vec_half_q]);

  for (genvar h = 0; h < 2; h++) begin : g_half
    logic [31:0] memory[ACC_ROWS];
    logic [ADDRESS_BITS-1:0] row;
    assign row = ADDRESS_BITS'(acc_i.valid && acc_i.half == 1'(h) ? acc_i.row : vec_row);
    always_ff @(posedge clk) begin
      data[h] <= memory[row];
      if (written.valid && written.half == 1'(h)) memory[ADDRESS_BITS'(written.row)] <= written_data;
    end
  end

  always_ff @(posedge clk) begin
    // read
    total_q <= 32'(total);
    vec_half_q <= vec_half;
    acc_o <= acc_i;
    acc_o.valid <= acc_i.valid && !rst;
    // add
    written_data <= total_q + (acc_o.accumulate ? old_sum : '0);
    written <= acc_o;
    written.valid <= acc_o.valid && !rst;
  end

  logic unused;
  assign unused = &{1'b0, vec_row};

endmodule
