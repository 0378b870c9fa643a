// From the activation memory to the array, in the two cycles after the one in which the addresses are given: the words
// arrive and those of a pixel that come in different cycles are gathered; then they are extracted.
module act_path #(
    parameter int unsigned SEGMENTS = 4,
    parameter int unsigned ROWS = 8
) (
    input  logic clk,
    input  logic rst,
    // of the cycle in which the addresses were given
    input  logic                                            active,
    input  logic                                            complete,
    input  engine_pkg::flags_t                              flags,
    input  logic [SEGMENTS-1:0]                             arrives,
    input  logic [SEGMENTS-1:0]                             in_image,
    input  logic [SEGMENTS-1:0][engine_pkg::ENTRY_BITS-1:0] entries,
    input  logic [SEGMENTS-1:0][15:0][7:0]                  data,  // a cycle later
    output logic [SEGMENTS-1:0][ROWS-1:0][7:0]              act,
    output engine_pkg::flags_t                              act_flags,
    output logic [SEGMENTS-1:0][2:0]                        act_s_act
);

  logic whole_q, whole_qq;
  engine_pkg::flags_t flags_q, flags_qq;

  always_ff @(posedge clk) begin
    whole_q <= active && complete && !rst;
    whole_qq <= whole_q && !rst;
    flags_q <= flags;
    flags_q.swap <= flags.swap && !rst;
    flags_qq <= flags_q;
    flags_qq.swap <= flags_q.swap && !rst;
    act_flags <= flags_qq;
    act_flags.swap <= flags_qq.swap && !rst;
  end

  for (genvar i = 0; i < SEGMENTS; i++) begin : g_segment
    engine_pkg::entry_t entry;
    assign entry = entries[i];
    logic arrives_q, in_image_q, in_image_qq;
    logic [2:0] piece_q, piece_qq, s_act_q, s_act_qq;
    logic [127:0] word;
    logic [ROWS*8-1:0] rows;
    act_extract #(
        .ROWS(ROWS)
    ) u_extract (
        .form4(flags_qq.form4),
        .is_unsigned(flags_qq.is_unsigned),
        .piece(piece_qq),
        .s_act(s_act_qq),
        .word(word),
        .rows(rows)
    );
    always_ff @(posedge clk) begin
      arrives_q <= arrives[i];
      in_image_q <= in_image[i];
      piece_q <= entry.piece;
      s_act_q <= entry.s_act;
      if (arrives_q) word <= data[i];
      in_image_qq <= in_image_q;
      piece_qq <= piece_q;
      s_act_qq <= s_act_q;
      act[i] <= whole_qq && in_image_qq ? rows : '0;
      act_s_act[i] <= s_act_qq;
    end
    logic unused;
    assign unused = &{1'b0, entry};
  end

endmodule
