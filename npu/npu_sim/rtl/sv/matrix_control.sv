// When things happen: accepts instructions, takes tokens and ports, starts passes.
//
// A conv is accepted when no conv has a pass left to start; it takes the tokens of load and store and its first weight
// load begins, no sooner than SHADOW_FREE_CYCLES after the last pass started. A pass starts when its weights are there
// and the stream before it has ended; the first one of a conv also waits for the vector engine's tokens and then for
// the ports.
module matrix_control (
    input  logic clk,
    input  logic rst,
    // queue
    input  logic           queue_valid,
    input  npu_pkg::word_t queue_word,
    output logic           accept,
    // tokens
    output logic [npu_pkg::ENGINES-1:0] want,
    output logic                        take,
    input  logic                        tokens_ready,
    // ends
    input  logic                        end_blocked,
    output logic                        begun,  // an operation starts (a conv: its first pixel)
    output logic                        begun_conv,
    output logic [npu_pkg::ENGINES-1:0] begun_push,
    // state that instructions set
    output npu_pkg::geom_t   geom,
    output logic             groups_write,
    output npu_pkg::groups_t groups,
    output logic             conv_accept,
    output npu_pkg::conv_t   conv,      // from the cycle in which it is accepted on
    input  logic [7:0]       boundary,  // of the layer's register
    output logic [8:0]       low,       // places in 4-bit form
    // passes
    output logic       plan_go,
    input  logic       plan_busy,
    input  logic       plan_ready,
    input  logic       plan_last,
    input  logic       streaming,
    input  logic [3:0] ports_wanted,
    input  logic [3:0] ports_busy,
    output logic       pass_start,
    output logic       pass_first,  // of the conv
    // trace
    output logic weights_tokens,
    output logic vector_tokens
);

  localparam int unsigned WAIT_BITS = $clog2(npu_pkg::SHADOW_FREE_CYCLES);
  localparam logic [npu_pkg::ENGINES-1:0] VECTOR = 1 << npu_pkg::ENGINE_VECTOR;

  logic setup_waits, conv_waits;  // accepted and not started; a conv: passes left to start
  logic weights_had, vector_had;  // its tokens are taken
  npu_pkg::word_t word_q, word;
  npu_pkg::conv_t conv_q;

  assign accept = queue_valid && !setup_waits && !conv_waits && !end_blocked;
  assign word = accept ? queue_word : word_q;
  assign conv_accept = accept && npu_pkg::opcode(queue_word) == npu_pkg::OP_CONV;

  // -- geom and groups
  logic setup, setup_start;
  assign setup = (accept && !conv_accept) || setup_waits;
  assign setup_start = setup && tokens_ready;
  assign groups_write = setup_start && npu_pkg::opcode(word) == npu_pkg::OP_GROUPS;
  assign groups = npu_pkg::get_groups(word);

  // -- conv
  assign conv = conv_accept ? npu_pkg::get_conv(queue_word) : conv_q;
  logic [8:0] below;
  assign below = 9'(boundary) - 9'(conv.group_first);
  assign low = boundary < conv.group_first ? '0 : below < conv.group_count ? below : conv.group_count;

  logic weights_wait, vector_wait, weights_there, vector_there;
  assign weights_wait = conv_accept || (conv_waits && !weights_had);
  assign vector_wait = conv_waits && pass_first && plan_ready && !streaming && !vector_had;
  assign weights_tokens = weights_wait && tokens_ready;
  assign vector_tokens = vector_wait && tokens_ready;
  assign weights_there = weights_tokens || (conv_waits && weights_had);
  assign vector_there = vector_tokens || vector_had;

  assign want = npu_pkg::pop(word) & (setup ? '1 : weights_wait ? ~VECTOR : VECTOR);
  assign take = setup_start || weights_tokens || vector_tokens;

  logic [WAIT_BITS-1:0] shadow_wait;
  assign plan_go = weights_there && shadow_wait == '0 && !plan_busy && !plan_ready;
  assign pass_start = conv_waits && plan_ready && !streaming
      && (!pass_first || (vector_there && (ports_wanted & ports_busy) == '0));

  assign begun = setup_start || (pass_start && pass_first);
  assign begun_conv = !setup;
  assign begun_push = npu_pkg::push(word);

  always_ff @(posedge clk) begin
    if (accept) word_q <= queue_word;
    conv_q <= conv;
    if (setup_start && npu_pkg::opcode(word) == npu_pkg::OP_GEOM) geom <= npu_pkg::get_geom(word);
    if (rst) begin
      setup_waits <= 1'b0;
      conv_waits <= 1'b0;
      weights_had <= 1'b0;
      vector_had <= 1'b0;
      pass_first <= 1'b0;
      shadow_wait <= '0;
    end else begin
      setup_waits <= setup && !tokens_ready;
      conv_waits <= conv_accept || (conv_waits && !(pass_start && plan_last));
      weights_had <= weights_there;
      vector_had <= vector_there && conv_waits;
      pass_first <= conv_accept || (pass_first && !pass_start);
      if (pass_start) shadow_wait <= WAIT_BITS'(npu_pkg::SHADOW_FREE_CYCLES - 1);
      else if (shadow_wait != '0) shadow_wait <= shadow_wait - 1'b1;
    end
  end

endmodule
