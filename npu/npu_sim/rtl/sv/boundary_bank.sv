// Boundary registers: the host writes the staging bank, START copies it. The last register is hard-wired to zero.
module boundary_bank (
    input  logic       clk,
    input  logic       write,
    input  logic [7:0] index,
    input  logic [7:0] data,
    input  logic       start,
    input  logic [7:0] index_read,
    output logic [7:0] boundary
);

  localparam int unsigned LAST = npu_pkg::BOUNDARY_REGISTERS - 1;

  logic [LAST-1:0][7:0] staging, active;

  always_ff @(posedge clk) begin
    if (write && index != 8'(LAST)) staging[index] <= data;
    if (start) active <= staging;
  end

  assign boundary = index_read == 8'(LAST) ? '0 : active[index_read];

endmodule
