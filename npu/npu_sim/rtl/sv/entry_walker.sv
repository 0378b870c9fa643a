// Walks the (tap, group) list of a conv: places below `low` in 4-bit form first, then the others in 8-bit form; within
// each part taps or groups run fastest, and the pieces of a group (two halves in 8-bit form) fastest of all.
module entry_walker #(
    parameter int unsigned ROWS = 8  // of a segment
) (
    input  logic           clk,
    input  logic           rst,
    input  npu_pkg::geom_t geom,
    input  logic [8:0]     low,       // places in 4-bit form
    input  logic [8:0]     count,     // places in all
    input  logic           step,      // to the next entry; from the last one back to the first
    output logic           form4,
    output logic [8:0]     place,     // relative to the first place covered
    output logic [15:0]    tap,
    output logic [2:0]     piece,
    output logic [15:0]    dy,
    output logic [15:0]    dx,
    output logic [40:0]    offset,    // words from the pixel's first to the tap's, without the group
    output logic           part_end,  // the last entry of its part
    output logic           conv_end
);

  localparam int unsigned PIECES8 = npu_pkg::GROUP_CHANNELS / ROWS;
  localparam int unsigned PIECES4 = npu_pkg::GROUP_CHANNELS / (2 * ROWS);

  logic [7:0] ky, kx;
  logic [39:0] row_words;
  logic [31:0] col_words;
  assign offset = 41'(row_words) + 41'(col_words);

  logic [8:0] part_first, part_last;
  assign form4 = place < low;
  assign part_first = form4 ? '0 : low;
  assign part_last = (form4 ? low : count) - 1'b1;

  logic last_piece, last_kx, last_ky, last_place;
  assign last_piece = piece == (form4 ? 3'(PIECES4 - 1) : 3'(PIECES8 - 1));
  assign last_kx = kx == geom.kernel_w - 1'b1;
  assign last_ky = ky == geom.kernel_h - 1'b1;
  assign last_place = place == part_last;
  assign part_end = last_piece && last_kx && last_ky && last_place;
  assign conv_end = part_end && part_last == count - 1'b1;

  // a group is finished: which of tap and place goes on, which starts again
  logic next_tap, next_place;
  assign next_tap = last_piece && (geom.tap_fastest || last_place);
  assign next_place = last_piece && (!geom.tap_fastest || (last_kx && last_ky));

  always_ff @(posedge clk) begin
    if (rst || (step && conv_end)) place <= '0;
    else if (step && next_place) place <= last_place && !part_end ? part_first : place + 1'b1;
    if (rst) piece <= '0;
    else if (step) piece <= last_piece ? '0 : piece + 1'b1;
    if (rst) begin
      {ky, kx, tap} <= '0;
      {dy, dx, row_words, col_words} <= '0;
    end else if (step && next_tap) begin
      tap <= last_kx && last_ky ? '0 : tap + 1'b1;
      kx <= last_kx ? '0 : kx + 1'b1;
      dx <= last_kx ? '0 : dx + 16'(geom.dilation_x);
      col_words <= last_kx ? '0 : col_words + 32'(geom.dilation_x) * 32'(geom.pixel_pitch);
      if (last_kx) begin
        ky <= last_ky ? '0 : ky + 1'b1;
        dy <= last_ky ? '0 : dy + 16'(geom.dilation_y);
        row_words <= last_ky ? '0 : row_words + 40'(geom.dilation_y) * 40'(geom.row_pitch);
      end
    end
  end

  logic unused;
  assign unused = &{1'b0, geom};

endmodule
