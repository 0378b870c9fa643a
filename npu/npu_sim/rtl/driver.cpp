// Drives the matrix engine cycle by cycle: replays what the other engines do, answers its memory reads, notes its
// trace.
//
// stdin: int64 header, boundaries, convs (half, first row, pixels), events (cycle, kind, a, b, c) in order of cycles,
// then bytes that events point into. The first argument, if any, is the file for the waveform. stdout: int64 header,
// log (kind, cycle, value), then int32 sums of each conv and of each read of the vector engine. npu_sim/rtl/stimulus.py
// and run.py are the other ends of both.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "Vengine.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

using std::int64_t;
using std::uint8_t;

namespace {

enum Header { EVENTS, BLOB_BYTES, BOUNDARIES, CONVS, MATRIX_OPS, LIMIT, FIRST, SHOWN, ACT_WORDS, WEIGHT_BYTES, HEADER };
enum Event { PUT, TOKEN, TAKEN, BUSY, WRITE_ACT, WRITE_WEIGHT, READ_ACC };
enum Log { ACCEPT, WEIGHTS_TOKENS, LOAD, TOKENS, START, PASS, STREAM_END, DONE, END, FAULT };
enum Fault { QUEUE_FULL, BANK, PORT_NOT_HELD, PORT_HELD_TWICE, ADDRESS, STUCK };

constexpr int WORD = 16, REGIONS = 4, ENGINES = 4;
constexpr int POSITION_BYTES = (COLS + 1) / 2;

struct Record {
    int64_t kind, cycle, value;
};

template <typename T>
std::vector<T> take(size_t count) {
    std::vector<T> values(count);
    if (count && std::fread(values.data(), sizeof(T), count, stdin) != count) std::exit(3);
    return values;
}

template <typename T>
void give(const std::vector<T>& values) {
    std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

// A port of any width as bytes: Verilator keeps narrow ones in an integer, wide ones in an array of 32-bit words.
template <typename Port>
void set(Port& port, const void* bytes, size_t count) {
    std::memcpy(&port, bytes, count);
}

template <typename T, typename Port>
T get(const Port& port, size_t index) {
    T value;
    std::memcpy(&value, reinterpret_cast<const uint8_t*>(&port) + index * sizeof(T), sizeof(T));
    return value;
}

template <typename Port>
bool bit(const Port& port, size_t index) {
    return get<uint8_t>(port, index / 8) >> (index % 8) & 1;
}

template <typename Port>
unsigned field24(const Port& port, size_t index) {
    unsigned value = 0;
    std::memcpy(&value, reinterpret_cast<const uint8_t*>(&port) + 3 * index, 3);
    return value;
}

class Bench {
  public:
    Bench(const std::vector<int64_t>& header, int count, char** arguments)
        : head(header),
          boundaries(take<int64_t>(head[BOUNDARIES])),
          convs(take<int64_t>(3 * head[CONVS])),
          events(take<int64_t>(5 * head[EVENTS])),
          blob(take<uint8_t>(head[BLOB_BYTES])),
          act(head[ACT_WORDS] * WORD),
          weight(head[WEIGHT_BYTES]),
          acc(2 * ACC_ROWS * COLS),
          sums(head[CONVS]) {
        for (int64_t i = 0; i < head[CONVS]; i++) sums[i].resize(convs[3 * i + 2] * COLS);
        const char* vcd = count > 1 && arguments[1][0] != '+' ? arguments[1] : nullptr;
        context.commandArgs(count, arguments);  // $test$plusargs
        context.randReset(2);  // registers without a reset power up with anything
        context.randSeed(1);
        top = new Vengine{&context};
#if VM_TRACE
        if (vcd) {
            context.traceEverOn(true);
            waves = new VerilatedVcdC;
            top->trace(waves, 99);
            waves->open(vcd);
        }
#else
        (void)vcd;
#endif
    }

    void run() {
        apply();  // nothing happens before cycle 0
        top->ports_busy = 0;
        top->boundary_write = 0;
        top->boundary_start = 0;
        top->rst = 1;
        for (int i = 0; i < 4; i++) edge();
        top->rst = 0;
        for (size_t i = 0; i < boundaries.size(); i++) {
            top->boundary_write = 1;
            top->boundary_index = i;
            top->boundary_data = boundaries[i];
            edge();
        }
        top->boundary_write = 0;
        top->boundary_start = 1;
        edge();
        top->boundary_start = 0;
        cycle = head[FIRST];
        while (ended < head[MATRIX_OPS] || next < head[EVENTS]) {
            if (cycle == head[LIMIT]) note(FAULT, STUCK);
            apply();
            top->clk = 0;
            top->eval();
            observe();
            answer();
#if VM_TRACE
            if (waves && cycle >= head[SHOWN]) waves->dump(uint64_t(cycle));  // a time unit is a cycle: what all signals are during it
#endif
            top->clk = 1;
            top->eval();
            deliver();
            if (faulty) break;
            cycle++;
        }
#if VM_TRACE
        if (waves) waves->close();
#endif
    }

    void report(double seconds) const {
        give(std::vector<int64_t>{int64_t(log.size()), cycle, int64_t(seconds * 1e9)});
        give(log);
        for (const auto& part : sums) give(part);
        give(vec_rows);
    }

  private:
    VerilatedContext context;
    Vengine* top;
    std::vector<int64_t> head, boundaries, convs, events;
    std::vector<uint8_t> blob, act, weight;
    std::vector<int32_t> acc;                // as written, by half, row, column
    std::vector<std::vector<int32_t>> sums;  // of each conv: pixel, column
    std::vector<int32_t> vec_rows;
    std::vector<Record> log;
    int64_t cycle = INT64_MIN, next = 0, ended = 0;
    size_t conv_of[COLS] = {};  // convs that each column has finished
    bool was_active = false, faulty = false, vec_reads = false;
    uint8_t act_word[SEGMENTS][WORD] = {}, weight_bytes[2 * WGT_ROWS * COLS] = {}, positions[POSITION_BYTES] = {};
#if VM_TRACE
    VerilatedVcdC* waves = nullptr;
#endif

    void edge() {  // a clock cycle before cycle 0
        top->clk = 0;
        top->eval();
        top->clk = 1;
        top->eval();
    }

    void note(Log kind, int64_t value) {
        log.push_back({kind, cycle, value});
        if (kind == FAULT) faulty = true;
    }

    // what happens at the beginning of the cycle
    void apply() {
        uint8_t tokens[ENGINES] = {}, taken[ENGINES] = {};
        top->put = 0;
        vec_reads = false;
        for (; next < head[EVENTS] && events[5 * next] == cycle; next++) {
            const int64_t *event = &events[5 * next], a = event[2], b = event[3], c = event[4];
            switch (event[1]) {
                case PUT:
                    set(top->put_word, &blob[a], 32);
                    top->put = 1;
                    break;
                case TOKEN: tokens[a]++; break;
                case TAKEN: taken[a]++; break;
                case BUSY: top->ports_busy = a; break;
                case WRITE_ACT: std::memcpy(&act[a], &blob[b], c); break;
                case WRITE_WEIGHT: std::memcpy(&weight[a], &blob[b], c); break;
                case READ_ACC:
                    top->vec_half = a;
                    top->vec_row = b;
                    vec_reads = true;
                    break;
            }
        }
        set(top->tokens_in, tokens, ENGINES);
        set(top->tokens_taken, taken, ENGINES);
    }

    void observe() {
        if (top->put && top->queue_full) note(FAULT, QUEUE_FULL);
        if (top->ports_held & top->ports_busy) note(FAULT, PORT_HELD_TWICE);
        if (top->trace_accept) note(ACCEPT, 0);
        if (top->trace_weights_tokens) note(WEIGHTS_TOKENS, 0);
        if (top->trace_load) note(LOAD, 0);
        if (was_active && !top->trace_streaming) note(STREAM_END, 0);
        if (top->trace_tokens) note(TOKENS, 0);
        if (top->trace_start) note(START, 0);
        if (top->trace_pass) note(PASS, top->trace_form4 | top->trace_last_turn << 1);
        was_active = top->trace_pass || top->trace_streaming;
        for (int c = 0; c < COLS; c++) {
            if (bit(top->trace_write, c)) collect(c);
        }
        if (top->trace_done) note(DONE, 0);
        for (int i = 0; i < top->trace_ended; i++) note(END, 0);
        ended += top->trace_ended;
    }

    // a sum is written; the conv's last one completes its column
    void collect(int c) {
        const int row = bit(top->trace_half, c) * ACC_ROWS + get<uint16_t>(top->trace_row, c);
        if (row >= 2 * ACC_ROWS) return note(FAULT, ADDRESS);
        acc[row * COLS + c] = get<int32_t>(top->trace_data, c);
        if (!bit(top->trace_last, c) || conv_of[c] >= sums.size()) return;
        const size_t conv = conv_of[c]++;
        const int64_t first = convs[3 * conv] * ACC_ROWS + convs[3 * conv + 1];
        for (int64_t i = 0; i < convs[3 * conv + 2]; i++) sums[conv][i * COLS + c] = acc[(first + i) * COLS + c];
    }

    // the memories sample their addresses at the end of the cycle
    void answer() {
        // what nobody asks for is anything
        std::memset(act_word, 0x55 + int(cycle), sizeof act_word);
        std::memset(weight_bytes, 0xAA + int(cycle), sizeof weight_bytes);
        std::memset(positions, 0x33 + int(cycle), sizeof positions);
        int64_t in_bank[BANKS];
        for (int64_t& address : in_bank) address = -1;
        for (int i = 0; i < SEGMENTS; i++) {
            if (!bit(top->act_read, i)) continue;
            const int64_t address = field24(top->act_address, i);
            if (address >= head[ACT_WORDS]) return note(FAULT, ADDRESS);
            int64_t& there = in_bank[address % BANKS];
            if (there >= 0 && there != address) note(FAULT, BANK);
            there = address;
            if (!(top->ports_held >> (address / REGION_WORDS) & 1)) note(FAULT, PORT_NOT_HELD);
            std::memcpy(act_word[i], &act[address * WORD], WORD);
        }
        if (top->wgt_read) {
            if (top->wgt_address + sizeof weight_bytes / 2 > weight.size()) return note(FAULT, ADDRESS);
            // in 8-bit form only the first half is asked for; it may be the last in the memory
            const size_t count = std::min(sizeof weight_bytes, weight.size() - top->wgt_address);
            std::memcpy(weight_bytes, &weight[top->wgt_address], count);
        }
        if (top->pos_read) {
            if (top->pos_address * WORD + POSITION_BYTES > weight.size()) return note(FAULT, ADDRESS);
            std::memcpy(positions, &weight[top->pos_address * WORD], POSITION_BYTES);
        }
    }

    void deliver() {
        set(top->act_data, act_word, sizeof act_word);
        set(top->wgt_data, weight_bytes, sizeof weight_bytes);
        set(top->pos_data, positions, sizeof positions);
        if (vec_reads) {
            for (int c = 0; c < COLS; c++) vec_rows.push_back(get<int32_t>(top->vec_data, c));
        }
    }
};

}  // namespace

int main(int count, char** arguments) {
    Bench bench(take<int64_t>(HEADER), count, arguments);
    const auto begin = std::chrono::steady_clock::now();
    bench.run();
    bench.report(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    return 0;
}
