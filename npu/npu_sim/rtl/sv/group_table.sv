// The group table: which input group stands at a place of the layer's order, and its activation position.
module group_table (
    input  logic             clk,
    input  logic             write,
    input  npu_pkg::groups_t entries,
    input  logic [7:0]       place,
    output logic [7:0]       group,
    output logic [2:0]       s_act,
    input  logic             scan,  // note the least and largest group of places first .. last
    input  logic [7:0]       first,
    input  logic [7:0]       last,
    output logic [7:0]       least,
    output logic [7:0]       largest
);

  localparam int unsigned WIDTH = npu_pkg::TABLE_ENTRIES_PER_WORD;
  localparam int unsigned ROWS = npu_pkg::MAX_GROUPS / WIDTH;

  logic [WIDTH-1:0][7:0] groups[ROWS];
  logic [WIDTH-1:0][2:0] shifts[ROWS];
  logic [3:0] row, column;
  assign {row, column} = place;
  assign group = groups[row][column];
  assign s_act = shifts[row][column];

  always_ff @(posedge clk) begin
    if (write) begin
      groups[entries.first[7:4]] <= entries.group;
      shifts[entries.first[7:4]] <= entries.shift;
    end
  end

  // a tree of comparisons: node n is made of nodes 2 n and 2 n + 1; nothing writes the table while a conv is accepted
  localparam int unsigned PLACES = npu_pkg::MAX_GROUPS;
  always_ff @(posedge clk) begin
    if (scan) begin
      logic [16*PLACES-1:0] low, high;
      for (int unsigned p = 0; p < PLACES; p++) begin
        low[8*(PLACES+p)+:8]  = 8'(p) >= first && 8'(p) <= last ? groups[p/WIDTH][p%WIDTH] : '1;
        high[8*(PLACES+p)+:8] = 8'(p) >= first && 8'(p) <= last ? groups[p/WIDTH][p%WIDTH] : '0;
      end
      for (int unsigned n = PLACES - 1; n > 0; n--) begin
        low[8*n+:8]  = low[16*n+:8] < low[16*n+8+:8] ? low[16*n+:8] : low[16*n+8+:8];
        high[8*n+:8] = high[16*n+:8] > high[16*n+8+:8] ? high[16*n+:8] : high[16*n+8+:8];
      end
      least   <= low[8+:8];
      largest <= high[8+:8];
    end
  end

  logic unused;
  assign unused = &{1'b0, entries.first[3:0]};  // a multiple of 16

endmodule
