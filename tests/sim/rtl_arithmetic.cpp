// The multiplier and the extraction of the RTL, for every operand: each against plain C++. Prints what it has compared.

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "Vengine.h"

namespace {

int value(int byte, int bits, bool is_unsigned) {  // of the low bits of a byte
    byte &= (1 << bits) - 1;
    return is_unsigned || byte < 1 << (bits - 1) ? byte : byte - (1 << bits);
}

}  // namespace

int main() {
    Vengine top;
    long compared = 0;
    for (int is_unsigned = 0; is_unsigned < 2; is_unsigned++) {
        top.is_unsigned = is_unsigned;
        for (int a = 0; a < 256; a++) {
            top.act = a;
            for (int s = 0; s <= 4; s++) {
                top.s = s;
                top.eval();
                const int least = is_unsigned ? 0 : -8, most = is_unsigned ? 15 : 7;
                const int code = std::clamp((value(a, 8, is_unsigned) + ((1 << s) >> 1)) >> s, least, most);
                if (top.code != (code & 15)) return std::printf("code of %d at %d: %d\n", a, s, top.code), 1;
                compared++;
            }
            for (int w = 0; w < 256; w++) {
                top.wgt = w;
                const int whole = value(a, 8, is_unsigned) * value(w, 8, false);
                const int pair = value(a >> 4, 4, is_unsigned) * value(w, 4, false)
                    + value(a, 4, is_unsigned) * value(w >> 4, 4, false);
                for (int form4 = 0; form4 < 2; form4++) {
                    top.form4 = form4;
                    top.eval();
                    const int expected = form4 ? 16 * pair : whole;
                    if (int16_t(top.product) != expected) {
                        return std::printf("%d x %d, form %d: %d\n", a, w, form4, int16_t(top.product)), 1;
                    }
                    compared++;
                }
            }
        }
    }
    std::printf("%ld\n", compared);
    return 0;
}
