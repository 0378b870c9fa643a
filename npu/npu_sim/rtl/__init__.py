"""The matrix engine in SystemVerilog, run under Verilator: see isa_spec/RTL.md."""
