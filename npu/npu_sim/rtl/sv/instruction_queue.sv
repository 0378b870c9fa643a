// The engine's queue: a word dispatched in cycle d is at the head from d + 1 on at the earliest; a place freed in cycle
// t can be used from t + 1.
module instruction_queue #(
    parameter int unsigned DEPTH = 4
) (
    input  logic           clk,
    input  logic           rst,
    input  logic           put,
    input  npu_pkg::word_t put_word,
    input  logic           take,
    output logic           full,
    output logic           valid,
    output npu_pkg::word_t word
);

  localparam int unsigned INDEX_BITS = $clog2(DEPTH);
  localparam int unsigned COUNT_BITS = $clog2(DEPTH + 1);

  npu_pkg::word_t words[DEPTH];
  logic [INDEX_BITS-1:0] head, tail;
  logic [COUNT_BITS-1:0] count;

  assign full  = count == COUNT_BITS'(DEPTH);
  assign valid = count != '0;
  assign word  = words[head];

  always_ff @(posedge clk) begin
    if (put) words[tail] <= put_word;
    if (rst) begin
      head  <= '0;
      tail  <= '0;
      count <= '0;
    end else begin
      if (put) tail <= tail == INDEX_BITS'(DEPTH - 1) ? '0 : tail + 1'b1;
      if (take) head <= head == INDEX_BITS'(DEPTH - 1) ? '0 : head + 1'b1;
      count <= count + COUNT_BITS'(put) - COUNT_BITS'(take);
    end
  end

endmodule
