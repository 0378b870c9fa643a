// The regions whose read ports a conv takes: all between the lowest and the highest word of its windows inside the
// image.
module region_mask #(
    parameter int unsigned REGION_WORDS = 1024
) (
    input  npu_pkg::geom_t    geom,
    input  engine_pkg::tile_t tile,
    input  logic [7:0]        least_group,
    input  logic [7:0]        largest_group,
    output logic [3:0]        mask
);

  // first and last image row (column) inside the image, relative to the first window's; none if last < first
  typedef struct packed {
    logic signed [27:0] first;
    logic signed [27:0] last;
  } span_t;

  function automatic span_t span(input logic signed [27:0] at, input logic [15:0] steps, input logic [7:0] stride,
                                 input logic [7:0] taps, input logic [7:0] dilation, input logic [15:0] limit);
    logic signed [27:0] reach, most, first, last;
    reach = $signed(28'(steps) * 28'(stride) + 28'(taps) * 28'(dilation));
    most = $signed({12'b0, limit}) - 28'sd1 - at;
    first = at < 0 ? -at : 28'sd0;
    last = reach < most ? reach : most;
    span = {first, last};
  endfunction

  span_t rows, cols;
  assign rows = span(28'(tile.y), tile.last_row, geom.stride_y, geom.kernel_h - 8'd1, geom.dilation_y, tile.in_h);
  assign cols = span(28'(tile.x), tile.last_col, geom.stride_x, geom.kernel_w - 8'd1, geom.dilation_x, tile.in_w);

  logic [23:0] low, high;
  assign low = tile.address + 24'(rows.first) * geom.row_pitch + 24'(cols.first) * 24'(geom.pixel_pitch)
      + 24'(least_group);
  assign high = tile.address + 24'(rows.last) * geom.row_pitch + 24'(cols.last) * 24'(geom.pixel_pitch)
      + 24'(largest_group);

  logic some;
  assign some = $signed(rows.last) >= $signed(rows.first) && $signed(cols.last) >= $signed(cols.first);
  for (genvar r = 0; r < 4; r++) begin : g_region
    assign mask[r] = some && 25'(low) < 25'((r + 1) * REGION_WORDS) && (r == 0 || 25'(high) >= 25'(r * REGION_WORDS));
  end

  logic unused;
  assign unused = &{1'b0, geom, tile};

endmodule
