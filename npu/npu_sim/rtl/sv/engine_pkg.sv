// Types that travel inside the matrix engine.
package engine_pkg;

  // What a PE must know about an activation.
  typedef struct packed {
    logic swap;         // the first cycle of a pass: take the shadow weights
    logic form4;        // 4-bit form: two channels per row
    logic is_unsigned;  // bytes are 0..255, 4-bit codes 0..15
  } flags_t;

  // An activation on its way through the array.
  typedef struct packed {
    flags_t     flags;
    logic [7:0] act;
  } lane_t;
  localparam int unsigned LANE_BITS = 3 + 8;

  // With a segment's sum to its shifter.
  typedef struct packed {
    logic       swap;
    logic       form4;
    logic [2:0] s_act;
  } tag_t;

  // With the rows of a weight tile down a column: which rows of which segment they are for.
  typedef struct packed {
    logic       valid;
    logic [6:0] segments;  // segments still to go
    logic [2:0] row;       // first row written
  } wload_t;

  // With a finished sum to its accumulator.
  typedef struct packed {
    logic        valid;
    logic        half;
    logic [15:0] row;
    logic        accumulate;  // add to what is there: all but the first pass of a conv that does not accumulate
    logic        last;       // the conv's last pixel
  } acc_t;

  // An entry of the (tap, group) list of a pass: one segment's work.
  typedef struct packed {
    logic        valid;
    logic [15:0] dy;      // rows from the window's first pixel to the tap
    logic [15:0] dx;
    logic [23:0] offset;  // words from the pixel's first word to the tap's group
    logic [2:0]  piece;   // which part of the group's channels
    logic [2:0]  s_act;   // or, dynamic, what it clips
    logic [6:0]  turn;    // cycle of the pixel in which its bank delivers the word
  } entry_t;
  localparam int unsigned ENTRY_BITS = 1 + 16 + 16 + 24 + 3 + 3 + 7;

  // A pass, as the pixel stream runs it; constant for all its pixels.
  typedef struct packed {
    logic               form4;
    logic               accumulate;
    logic               last_pass;  // of the conv
    logic [6:0]         last_turn;  // bank factor - 1
  } pass_t;

  // The tile of a conv: where its pixels lie in image, activation memory and accumulators.
  typedef struct packed {
    logic signed [25:0] y;        // image row and column of the first pixel's window
    logic signed [25:0] x;
    logic [23:0]        address;  // word of that place, group 0 (it may lie outside the image)
    logic [23:0]        step_y;   // words from an output row to the next
    logic [23:0]        step_x;
    logic [7:0]         stride_y;
    logic [7:0]         stride_x;
    logic [15:0]        in_h;
    logic [15:0]        in_w;
    logic [15:0]        last_row;  // tile_h - 1
    logic [15:0]        last_col;
    logic               is_unsigned;
    logic               is_dynamic;
    logic               half;
    logic [15:0]        acc_row;
  } tile_t;

endpackage
