// The matrix engine: isa_spec/MICROARCHITECTURE.md sections 1 to 4, isa_spec/RTL.md.
//
// Signals of a cycle: what arrives in cycle t (words, tokens, data) is there during t; outputs are those of t.
module matrix_engine #(
    parameter int unsigned ARRAY_ROWS = 32,
    parameter int unsigned COLS = 32,
    parameter int unsigned WGT_ROWS = 1,
    parameter int unsigned DYNAMIC_EXTRACTION = 0,  // 1: positions may be found at run time
    parameter int unsigned BANKS = 8,
    parameter int unsigned REGION_WORDS = 16384,
    parameter int unsigned ACC_ROWS = 512,
    parameter int unsigned QUEUE_DEPTH = 16,
    parameter int unsigned TOKEN_DEPTH = 64,
    localparam int unsigned ROWS = ARRAY_ROWS < npu_pkg::SEGMENT_ROWS ? ARRAY_ROWS : npu_pkg::SEGMENT_ROWS,
    localparam int unsigned SEGMENTS = ARRAY_ROWS / ROWS
) (
    input  logic clk,
    input  logic rst,
    // front end
    input  logic           put,
    input  npu_pkg::word_t put_word,
    output logic           queue_full,
    // boundary registers
    input  logic       boundary_write,
    input  logic [7:0] boundary_index,
    input  logic [7:0] boundary_data,
    input  logic       boundary_start,
    // tokens: given to this engine, given by it, and those of them that the others take
    input  logic [npu_pkg::ENGINES-1:0][7:0] tokens_in,
    output logic [npu_pkg::ENGINES-1:0][7:0] tokens_out,
    input  logic [npu_pkg::ENGINES-1:0][7:0] tokens_taken,
    // read ports of the activation regions
    input  logic [3:0] ports_busy,  // held by others
    output logic [3:0] ports_held,
    // activation memory, one word per segment; data in the next cycle
    output logic [SEGMENTS-1:0]            act_read,
    output logic [SEGMENTS-1:0][23:0]      act_address,
    input  logic [SEGMENTS-1:0][15:0][7:0] act_data,
    // weight memory; data in the next cycle
    output logic                                 wgt_read,
    output logic [27:0]                          wgt_address,  // bytes
    input  logic [2*WGT_ROWS-1:0][COLS-1:0][7:0] wgt_data,
    output logic                                 pos_read,
    output logic [23:0]                          pos_address,  // words of 16 bytes
    input  logic [COLS-1:0][3:0]                 pos_data,
    // the vector engine's reads of accumulators; data in the next cycle
    input  logic                  vec_half,
    input  logic [15:0]           vec_row,
    output logic [COLS-1:0][31:0] vec_data,
    // trace
    output logic                  trace_accept,
    output logic                  trace_weights_tokens,
    output logic                  trace_load,    // weights of a pass start
    output logic                  trace_tokens,  // the last tokens are taken
    output logic                  trace_start,
    output logic                  trace_pass,
    output logic                  trace_form4,
    output logic [6:0]            trace_last_turn,
    output logic                  trace_streaming,
    output logic                  trace_done,    // a conv's last sum is written
    output logic [7:0]            trace_ended,
    output logic [COLS-1:0]       trace_write,
    output logic [COLS-1:0]       trace_last,
    output logic [COLS-1:0]       trace_half,
    output logic [COLS-1:0][15:0] trace_row,
    output logic [COLS-1:0][31:0] trace_data
);

  // a segment's sum shifted by up to 8 has 20 bits
  localparam int unsigned TOTAL_BITS = 20 + $clog2(SEGMENTS);
  // operations started and not ended: a conv in the pipeline and the setups of the next layer, with room to spare
  localparam int unsigned COMPLETION_DEPTH = 64;

  if (ROWS * SEGMENTS != ARRAY_ROWS || ROWS % WGT_ROWS != 0) begin : g_sizes
    $error("the rows of a segment must be loaded in whole cycles");
  end
  if (npu_pkg::DISPATCH_CYCLES != 1 || npu_pkg::SETUP_CYCLES != 1 || npu_pkg::ACT_READ_CYCLES != 2
      || npu_pkg::FIND_POSITION_CYCLES != 1 || npu_pkg::SEGMENT_CYCLES != npu_pkg::SEGMENT_ROWS || npu_pkg::ACC_WRITE_CYCLES != 3) begin : g_stages
    $error("the pipeline stages of the RTL are not those of the timing constants");
  end

  // -- instructions, tokens, ends
  logic queue_valid, accept, take, tokens_ready, begun, begun_conv, blocked, completion_full, conv_done;
  npu_pkg::word_t queue_word;
  logic [npu_pkg::ENGINES-1:0] want, begun_push;

  instruction_queue #(
      .DEPTH(QUEUE_DEPTH)
  ) u_queue (
      .clk(clk),
      .rst(rst),
      .put(put),
      .put_word(put_word),
      .take(accept),
      .full(queue_full),
      .valid(queue_valid),
      .word(queue_word)
  );

  token_inbox u_inbox (
      .clk(clk),
      .rst(rst),
      .given(tokens_in),
      .want(want),
      .take(take),
      .ready(tokens_ready)
  );

  completion_queue #(
      .DEPTH(COMPLETION_DEPTH),
      .TOKEN_DEPTH(TOKEN_DEPTH)
  ) u_completion (
      .clk(clk),
      .rst(rst),
      .put(begun),
      .put_conv(begun_conv),
      .put_push(begun_push),
      .conv_done(conv_done),
      .taken(tokens_taken),
      .given(tokens_out),
      .ended(trace_ended),
      .blocked(blocked),
      .full(completion_full)
  );

  // -- control and the state that instructions set
  npu_pkg::geom_t geom;
  npu_pkg::groups_t groups;
  npu_pkg::conv_t conv;
  logic groups_write, conv_accept, plan_go, plan_busy, plan_ready, plan_last, streaming, pass_start, pass_first;
  logic vector_tokens;
  logic [7:0] boundary;
  logic [8:0] low;
  logic [3:0] ports_wanted;

  matrix_control u_control (
      .clk(clk),
      .rst(rst),
      .queue_valid(queue_valid),
      .queue_word(queue_word),
      .accept(accept),
      .want(want),
      .take(take),
      .tokens_ready(tokens_ready),
      .end_blocked(blocked || completion_full),
      .begun(begun),
      .begun_conv(begun_conv),
      .begun_push(begun_push),
      .geom(geom),
      .groups_write(groups_write),
      .groups(groups),
      .conv_accept(conv_accept),
      .conv(conv),
      .boundary(boundary),
      .low(low),
      .plan_go(plan_go),
      .plan_busy(plan_busy),
      .plan_ready(plan_ready),
      .plan_last(plan_last),
      .streaming(streaming),
      .ports_wanted(ports_wanted),
      .ports_busy(ports_busy),
      .pass_start(pass_start),
      .pass_first(pass_first),
      .weights_tokens(trace_weights_tokens),
      .vector_tokens(vector_tokens)
  );

  boundary_bank u_boundaries (
      .clk(clk),
      .write(boundary_write),
      .index(boundary_index),
      .data(boundary_data),
      .start(boundary_start),
      .index_read(geom.register_),
      .boundary(boundary)
  );

  logic [7:0] place, group, least_group, largest_group;
  logic [2:0] s_act;

  group_table u_groups (
      .clk(clk),
      .write(groups_write),
      .entries(groups),
      .place(place),
      .group(group),
      .s_act(s_act),
      .scan(conv_accept),
      .first(conv.group_first),
      .last(8'(9'(conv.group_first) + conv.group_count - 1'b1)),
      .least(least_group),
      .largest(largest_group)
  );

  // -- the tile: worked out while it is accepted
  engine_pkg::tile_t tile, tile_q;

  tile_setup u_tile (
      .geom(geom),
      .conv(conv),
      .tile(tile)
  );

  always_ff @(posedge clk) tile_q <= tile;

  region_mask #(
      .REGION_WORDS(REGION_WORDS)
  ) u_mask (
      .geom(geom),
      .tile(tile_q),
      .least_group(least_group),
      .largest_group(largest_group),
      .mask(ports_wanted)
  );

  // -- passes
  logic [SEGMENTS-1:0][engine_pkg::ENTRY_BITS-1:0] plan_entries, entries;
  engine_pkg::pass_t plan_pass;
  engine_pkg::wload_t wload;
  logic [COLS-1:0][2:0] wload_s_wgt;
  logic [COLS-1:0][WGT_ROWS-1:0][7:0] wload_wgt;
  logic plan_form4;
  logic [6:0] plan_last_turn;

  pass_planner #(
      .SEGMENTS(SEGMENTS),
      .ROWS(ROWS),
      .COLS(COLS),
      .WGT_ROWS(WGT_ROWS),
      .BANKS(BANKS),
      .DYNAMIC(DYNAMIC_EXTRACTION)
  ) u_planner (
      .clk(clk),
      .rst(rst),
      .geom(geom),
      .conv(conv),
      .low(low),
      .go(plan_go),
      .used(pass_start),
      .busy(plan_busy),
      .ready(plan_ready),
      .entries(plan_entries),
      .form4(plan_form4),
      .last_turn(plan_last_turn),
      .last_pass(plan_last),
      .place(place),
      .group(group),
      .s_act(s_act),
      .wgt_read(wgt_read),
      .wgt_address(wgt_address),
      .wgt_data(wgt_data),
      .pos_read(pos_read),
      .pos_address(pos_address),
      .pos_data(pos_data),
      .wload(wload),
      .wload_s_wgt(wload_s_wgt),
      .wload_wgt(wload_wgt)
  );

  assign plan_pass = {plan_form4, !pass_first || conv.accumulate, plan_last, plan_last_turn};

  logic active, complete, is_dynamic;
  logic [SEGMENTS-1:0] arrives, in_image;
  engine_pkg::flags_t flags;
  engine_pkg::acc_t acc;

  pixel_stream #(
      .SEGMENTS(SEGMENTS)
  ) u_stream (
      .clk(clk),
      .rst(rst),
      .start(pass_start),
      .plan_pass(plan_pass),
      .plan_tile(tile_q),
      .plan_entries(plan_entries),
      .streaming(streaming),
      .act_read(act_read),
      .act_address(act_address),
      .active(active),
      .complete(complete),
      .flags(flags),
      .is_dynamic(is_dynamic),
      .arrives(arrives),
      .in_image(in_image),
      .entries(entries),
      .acc(acc)
  );

  // the next conv may be waiting for other ports while this one's last pass still runs
  logic [3:0] held_q;
  always_ff @(posedge clk) held_q <= ports_held;
  assign ports_held = streaming ? held_q : pass_start ? ports_wanted : '0;

  // -- data
  logic [SEGMENTS-1:0][ROWS-1:0][7:0] act;
  engine_pkg::flags_t act_flags;
  logic [SEGMENTS-1:0][2:0] act_s_act;

  act_path #(
      .SEGMENTS(SEGMENTS),
      .ROWS(ROWS),
      .DYNAMIC(DYNAMIC_EXTRACTION)
  ) u_act (
      .clk(clk),
      .rst(rst),
      .active(active),
      .complete(complete),
      .flags(flags),
      .is_dynamic(is_dynamic),
      .arrives(arrives),
      .in_image(in_image),
      .entries(entries),
      .data(act_data),
      .act(act),
      .act_flags(act_flags),
      .act_s_act(act_s_act)
  );

  logic [COLS-1:0][TOTAL_BITS-1:0] total;

  systolic_array #(
      .SEGMENTS(SEGMENTS),
      .ROWS(ROWS),
      .COLS(COLS),
      .WGT_ROWS(WGT_ROWS),
      .TOTAL_BITS(TOTAL_BITS)
  ) u_array (
      .clk(clk),
      .rst(rst),
      .act(act),
      .flags(act_flags),
      .s_act(act_s_act),
      .wload(wload),
      .s_wgt(wload_s_wgt),
      .wgt(wload_wgt),
      .total(total)
  );

  // -- accumulators: the address follows the pixel through the array
  engine_pkg::acc_t acc_first;

  delay #(
      .WIDTH ($bits(acc)),
      .CYCLES(1 + npu_pkg::ACT_READ_CYCLES + DYNAMIC_EXTRACTION * npu_pkg::FIND_POSITION_CYCLES + ROWS + SEGMENTS)
  ) u_acc_delay (
      .clk(clk),
      .rst(rst),
      .d  (acc),
      .q  (acc_first)
  );

  for (genvar c = 0; c < COLS; c++) begin : g_col
    engine_pkg::acc_t acc_i, acc_o, written;
    if (c == 0) begin : g_first
      assign acc_i = acc_first;
    end else begin : g_next
      assign acc_i = g_col[c-1].acc_o;
    end
    acc_column #(
        .ACC_ROWS(ACC_ROWS),
        .TOTAL_BITS(TOTAL_BITS)
    ) u_acc (
        .clk(clk),
        .rst(rst),
        .acc_i(acc_i),
        .total($signed(total[c])),
        .acc_o(acc_o),
        .vec_half(vec_half),
        .vec_row(vec_row),
        .vec_data(vec_data[c]),
        .written(written),
        .written_data(trace_data[c])
    );
    assign trace_write[c] = written.valid;
    assign trace_last[c] = written.valid && written.last;
    assign trace_half[c] = written.half;
    assign trace_row[c] = written.row;
    logic unused;
    assign unused = &{1'b0, acc_o, written};
  end

  always_ff @(posedge clk) conv_done <= trace_last[COLS-1] && !rst;

  // -- trace
  assign trace_accept = accept;
  assign trace_load = plan_go;
  assign trace_tokens = vector_tokens || (begun && !begun_conv);
  assign trace_start = begun;
  assign trace_pass = pass_start;
  assign trace_form4 = plan_form4;
  assign trace_last_turn = plan_last_turn;
  assign trace_streaming = streaming;
  assign trace_done = conv_done;

endmodule
