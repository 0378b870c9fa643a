// Reads slots, a line of numbers each, and clocks one per cycle through the lane; prints each result that comes out.

#include <cstdio>

#include "Vengine.h"

int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    Vengine top;
    long v[13] = {};
    int left = 8;  // cycles behind the last slot
    while (left) {
        for (long& value : v) {
            if (std::scanf("%ld", &value) != 1) value = 0, left -= &value == v;
        }
        top.param_write = v[0], top.table_write = v[1], top.row = v[2], top.word = v[3], top.sum_write = v[4];
        top.residual = v[5] & 511, top.go = v[6], top.product = v[7], top.leaky = v[8], top.adds = v[9];
        top.look_up = v[10], top.low = v[11] & 65535, top.high = v[12] & 65535;
        top.clk = 0;
        top.eval();
        if (top.valid) std::printf("%d\n", int(top.result));
        top.clk = 1;
        top.eval();
    }
    return 0;
}
