// A lane's copy of the vector engine's table, in flip-flops, and the stage that looks a byte up in it. A row of parameter
// memory, four bytes of each of COLS lanes, is written at once.
module lane_table #(
    parameter int unsigned COLS = 32
) (
    input  logic                   clk,
    input  logic                   write,
    input  logic        [ 6:0]     row,
    input  logic [COLS-1:0][31:0]  data,
    input  logic                   look_up,
    input  logic        [15:0]     value,
    output logic        [15:0]     result
);

  localparam int unsigned ROW_BYTES = 4 * COLS;

  logic [npu_pkg::TABLE_BYTES-1:0][7:0] held;

  always_ff @(posedge clk) begin
    for (int unsigned i = 0; i < npu_pkg::TABLE_BYTES; i++) begin
      if (write && 32'(row) == i / ROW_BYTES) held[i] <= data[i%ROW_BYTES/4][8*(i%4)+:8];
    end
    result <= look_up ? {8'b0, held[value[7:0]]} : value;
  end

endmodule
