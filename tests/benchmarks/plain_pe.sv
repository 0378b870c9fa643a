// A processing element for int8 alone, in the style of pe.sv: what the dual-precision one is compared with (area.py).
module plain_pe #(
    parameter int unsigned PSUM_BITS = 19
) (
    input  logic                        clk,
    input  logic                        swap_i,
    input  logic                        is_unsigned_i,
    input  logic [7:0]                  act_i,
    input  logic signed [PSUM_BITS-1:0] psum_i,
    input  logic                        shadow_write,
    input  logic [7:0]                  shadow_data,
    output logic                        swap_o,
    output logic                        is_unsigned_o,
    output logic [7:0]                  act_o,
    output logic signed [PSUM_BITS-1:0] psum_o
);

  logic [7:0] shadow, active, wgt;
  assign wgt = swap_i ? shadow : active;

  // cut like multiplier.sv, which synthesis makes smaller than one `*`
  logic signed [8:0] act;
  logic signed [15:0] product;
  assign act = {act_i[7] & ~is_unsigned_i, act_i};
  assign product = 16'(act) * 16'($signed({1'b0, wgt[2:0]})) + (wgt[3] ? 16'(act) <<< 3 : '0)
      + ((16'(act) * 16'($signed(wgt[7:4]))) <<< 4);

  always_ff @(posedge clk) begin
    swap_o <= swap_i;
    is_unsigned_o <= is_unsigned_i;
    act_o <= act_i;
    psum_o <= psum_i + PSUM_BITS'(product);
    active <= wgt;
    if (shadow_write) shadow <= shadow_data;
  end

endmodule
