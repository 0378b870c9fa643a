// Operations that have started and not ended. They end in order, as many in a cycle as are done; each gives its tokens
// at its end, and waits for room in the FIFOs of all of them. A place that another engine frees in cycle t counts from
// t + 1.
module completion_queue #(
    parameter int unsigned DEPTH = 32,
    parameter int unsigned TOKEN_DEPTH = 64
) (
    input  logic                             clk,
    input  logic                             rst,
    input  logic                             put,        // an operation starts
    input  logic                             put_conv,   // it is a conv: done later; a setup is done in the next cycle
    input  logic [npu_pkg::ENGINES-1:0]      put_push,
    input  logic                             conv_done,  // the oldest conv not yet done is
    input  logic [npu_pkg::ENGINES-1:0][7:0] taken,      // tokens of this engine that others take in this cycle
    output logic [npu_pkg::ENGINES-1:0][7:0] given,      // tokens given in this cycle
    output logic [7:0]                       ended,      // operations that end in this cycle
    output logic                             blocked,    // one is done and waits for room
    output logic                             full
);

  // the oldest is number 0
  logic [DEPTH-1:0] is_conv;
  logic [DEPTH-1:0][npu_pkg::ENGINES-1:0] push;
  logic [7:0] count, kept;
  logic [7:0] convs_done, convs_left;
  logic [npu_pkg::ENGINES-1:0][16:0] room, room_left;

  assign full = count == 8'(DEPTH);

  always_comb begin
    logic go, done, fits;
    go = 1'b1;
    ended = '0;
    given = '0;
    blocked = 1'b0;
    room_left = room;
    convs_left = convs_done + 8'(conv_done);
    for (int unsigned i = 0; i < DEPTH; i++) begin
      done = 8'(i) < count && (!is_conv[i] || convs_left != '0);
      fits = 1'b1;
      for (int unsigned e = 0; e < npu_pkg::ENGINES; e++) if (push[i][e] && room_left[e] == '0) fits = 1'b0;
      if (go && done && !fits) blocked = 1'b1;
      go = go && done && fits;
      if (go) begin
        ended = ended + 1'b1;
        convs_left = convs_left - 8'(is_conv[i]);
        for (int unsigned e = 0; e < npu_pkg::ENGINES; e++) begin
          given[e] = given[e] + 8'(push[i][e]);
          room_left[e] = room_left[e] - 17'(push[i][e]);
        end
      end
    end
  end

  assign kept = count - ended;

  always_ff @(posedge clk) begin
    if (rst) begin
      count <= '0;
      convs_done <= '0;
      for (int unsigned e = 0; e < npu_pkg::ENGINES; e++) room[e] <= 17'(TOKEN_DEPTH);
    end else begin
      count <= kept + 8'(put);
      convs_done <= convs_left;
      for (int unsigned e = 0; e < npu_pkg::ENGINES; e++) room[e] <= room_left[e] + 17'(taken[e]);
    end
    for (int unsigned i = 0; i < DEPTH; i++) begin
      if (put && 8'(i) == kept) {is_conv[i], push[i]} <= {put_conv, put_push};
      else if (32'(i) + 32'(ended) < DEPTH) {is_conv[i], push[i]} <= {is_conv[i+32'(ended)], push[i+32'(ended)]};
    end
  end

endmodule
