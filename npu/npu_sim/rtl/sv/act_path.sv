// From the activation memory to the array, in the two cycles after the one in which the addresses are given: the words
// arrive and those of a pixel that come in different cycles are gathered; then they are extracted. With DYNAMIC the
// positions are found in a cycle between the two, for every pixel: none overtakes another.
module act_path #(
    parameter int unsigned SEGMENTS = 4,
    parameter int unsigned ROWS = 8,
    parameter int unsigned DYNAMIC = 0  // 1: there is a unit that finds positions
) (
    input  logic clk,
    input  logic rst,
    // of the cycle in which the addresses were given
    input  logic                                            active,
    input  logic                                            complete,
    input  engine_pkg::flags_t                              flags,
    input  logic                                            is_dynamic,  // s_act of an entry is what it clips
    input  logic [SEGMENTS-1:0]                             arrives,
    input  logic [SEGMENTS-1:0]                             in_image,
    input  logic [SEGMENTS-1:0][engine_pkg::ENTRY_BITS-1:0] entries,
    input  logic [SEGMENTS-1:0][15:0][7:0]                  data,  // a cycle later
    output logic [SEGMENTS-1:0][ROWS-1:0][7:0]              act,
    output engine_pkg::flags_t                              act_flags,
    output logic [SEGMENTS-1:0][2:0]                        act_s_act
);

  logic whole_q, whole_qq, whole;
  logic is_dynamic_q, is_dynamic_qq;
  engine_pkg::flags_t flags_q, flags_qq, found_flags;

  always_ff @(posedge clk) begin
    whole_q <= active && complete && !rst;
    whole_qq <= whole_q && !rst;
    flags_q <= flags;
    flags_q.swap <= flags.swap && !rst;
    flags_qq <= flags_q;
    flags_qq.swap <= flags_q.swap && !rst;
    is_dynamic_q <= is_dynamic;
    is_dynamic_qq <= is_dynamic_q;
    act_flags <= found_flags;
    act_flags.swap <= found_flags.swap && !rst;
  end

  delay #(
      .WIDTH (1 + $bits(flags)),
      .CYCLES(DYNAMIC)
  ) u_found (
      .clk(clk),
      .rst(rst),
      .d  ({whole_qq, flags_qq}),
      .q  ({whole, found_flags})
  );

  for (genvar i = 0; i < SEGMENTS; i++) begin : g_segment
    engine_pkg::entry_t entry;
    assign entry = entries[i];
    logic arrives_q, in_image_q, in_image_qq, found_in_image;
    logic [2:0] piece_q, piece_qq, found_piece, s_act_q, s_act_qq, found_s_act;
    logic [127:0] word, found_word;
    logic [ROWS*8-1:0] rows;
    act_extract #(
        .ROWS(ROWS)
    ) u_extract (
        .form4(found_flags.form4),
        .is_unsigned(found_flags.is_unsigned),
        .piece(found_piece),
        .s_act(found_s_act),
        .word(found_word),
        .rows(rows)
    );
    if (DYNAMIC == 0) begin : g_static
      assign {found_in_image, found_piece, found_s_act, found_word} = {in_image_qq, piece_qq, s_act_qq, word};
    end else begin : g_dynamic
      logic [2:0] asked;
      act_position u_position (
          .is_unsigned(flags_qq.is_unsigned),
          .clip(s_act_qq),
          .group(word),
          .s(asked)
      );
      always_ff @(posedge clk) begin
        found_in_image <= in_image_qq;
        found_piece <= piece_qq;
        found_s_act <= is_dynamic_qq ? asked : s_act_qq;
        found_word <= word;
      end
    end
    always_ff @(posedge clk) begin
      arrives_q <= arrives[i];
      in_image_q <= in_image[i];
      piece_q <= entry.piece;
      s_act_q <= entry.s_act;
      if (arrives_q) word <= data[i];
      in_image_qq <= in_image_q;
      piece_qq <= piece_q;
      s_act_qq <= s_act_q;
      act[i] <= whole && found_in_image ? rows : '0;
      act_s_act[i] <= found_s_act;
    end
    logic unused;
    assign unused = &{1'b0, entry, is_dynamic_qq};
  end

endmodule
