// Where a conv's tile lies: first pixel, steps, and the regions between the lowest and the highest word it reads.
module tile_setup (
    input  npu_pkg::geom_t    geom,
    input  npu_pkg::conv_t    conv,
    output engine_pkg::tile_t tile
);

  always_comb begin
    tile.y = $signed({2'b0, conv.out_y * 24'(geom.stride_y)}) - 26'($signed(geom.pad_top));
    tile.x = $signed({2'b0, conv.out_x * 24'(geom.stride_x)}) - 26'($signed(geom.pad_left));
    tile.step_y = 24'(geom.stride_y) * geom.row_pitch;
    tile.step_x = 24'(geom.stride_x) * 24'(geom.pixel_pitch);
    // modulo 2^24: the words that are read lie in the memory
    tile.address = conv.act_base + 24'(tile.y - 26'($signed(conv.act_row0))) * geom.row_pitch
        + 24'(tile.x) * 24'(geom.pixel_pitch);
    tile.stride_y = geom.stride_y;
    tile.stride_x = geom.stride_x;
    tile.in_h = geom.in_h;
    tile.in_w = geom.in_w;
    tile.last_row = conv.tile_h - 1'b1;
    tile.last_col = conv.tile_w - 1'b1;
    tile.is_unsigned = geom.unsigned_;
    tile.is_dynamic = geom.dynamic;
    tile.half = conv.acc_half;
    tile.acc_row = conv.acc_row;
  end

  logic unused;
  assign unused = &{1'b0, geom, conv};

endmodule
