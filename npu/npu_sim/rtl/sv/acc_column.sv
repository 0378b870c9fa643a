// The accumulators of one column: read, add, write in three cycles. The vector engine has a read port of its own: it
// may read rows of the half that a conv is writing other rows of.
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

  localparam int unsigned ADDRESS_BITS = $clog2(2 * ACC_ROWS);

  logic [31:0] memory[2*ACC_ROWS];

  function automatic logic [ADDRESS_BITS-1:0] address(input logic half, input logic [ADDRESS_BITS-1:0] row);
    address = half ? row + ADDRESS_BITS'(ACC_ROWS) : row;
  endfunction

  logic signed [31:0] total_q, old_sum;

  always_ff @(posedge clk) begin
    // read
    old_sum <= $signed(memory[address(acc_i.half, ADDRESS_BITS'(acc_i.row))]);
    total_q <= 32'(total);
    acc_o <= acc_i;
    acc_o.valid <= acc_i.valid && !rst;
    // add
    written_data <= total_q + (acc_o.overwrite ? '0 : old_sum);
    written <= acc_o;
    written.valid <= acc_o.valid && !rst;
    // write
    if (written.valid) memory[address(written.half, ADDRESS_BITS'(written.row))] <= written_data;
    vec_data <= $signed(memory[address(vec_half, ADDRESS_BITS'(vec_row))]);
  end

  logic unused;
  assign unused = &{1'b0, vec_row};

endmodule
