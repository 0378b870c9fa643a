// One processing element: an activation passes to the right, a partial sum downwards.
module pe #(
    parameter int unsigned PSUM_BITS = 19
) (
    input  logic                        clk,
    input  engine_pkg::lane_t           lane_i,
    input  logic signed [PSUM_BITS-1:0] psum_i,
    input  logic                        shadow_write,
    input  logic [7:0]                  shadow_data,
    output engine_pkg::lane_t           lane_o,
    output logic signed [PSUM_BITS-1:0] psum_o
);

  logic [7:0] shadow, active, wgt;
  assign wgt = lane_i.flags.swap ? shadow : active;

  logic signed [15:0] product;
  multiplier u_multiplier (
      .form4(lane_i.flags.form4),
      .is_unsigned(lane_i.flags.is_unsigned),
      .act(lane_i.act),
      .wgt(wgt),
      .product(product)
  );

  always_ff @(posedge clk) begin
    lane_o <= lane_i;
    psum_o <= psum_i + PSUM_BITS'(product);
    active <= wgt;
    if (shadow_write) shadow <= shadow_data;
  end

endmodule
