"""What a person reads: tables, plots, pages.

evaluating: accuracy and time over a data set (`npu run`). cycles: where the cycles go, by layer, engine or instruction,
explain: the same in words, and what would help (`npu report`). folder: the HTML page with its plots (`npu run
--report`). inspecting: what a binary holds (`npu inspect`). choices: what the quantizer chose (`npu explain`).
ablating: what each part of the method gives (`npu ablate`). Below them all, tables: rows as text, JSON and CSV; plots:
every picture.
"""
