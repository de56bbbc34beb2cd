#!/usr/bin/env python3
"""Seeded bugs in the CUDA kernels: the emulator's tests must notice each.

    tests/simt/mutants.py [--only N ...] [--jobs J] [--cxx g++]

Works in a scratch folder; the tree is not touched. Needs pkg-config, fmt and GoogleTest. What stands
behind a mutant says which test was first to fail: `rows`, `attention`, `sample` or `skinny_matmul`,
plain, or under ThreadSanitizer (`-race`) where only that notices.

Last result: killed 90 of 90, all by the plain tests; in three runs, as kernels came. The six of
quantize_rows died in a run by hand, those of skinny_matmul have not been run.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import mutation  # noqa: E402

CUDA = "kernels/cuda/"
SOURCES = ["base/check.cc", "kernels/simt/emulator.cc", "kernels/simt/emulator_ops.cc",
           "kernels/simt/fiber.cc", "kernels/simt/stream.cc", CUDA + "attention_work.cc"] + [
    CUDA + name + ".cu" for name in ["attention_decode", "attention_prefill", "elementwise", "experts", "norm",
                                     "quantize_rows", "rope", "rows", "sample", "skinny_matmul"]]
USERS = {  # what has a header's kernels in it
    "paged_kv.h": ["attention_decode.cu", "attention_prefill.cu"],
    "vector.h": ["norm.cu", "elementwise.cu", "experts.cu", "quantize_rows.cu"],
    "elementwise.h": ["elementwise.cu", "skinny_matmul.cu"],
}
PROGRAMS = {name: [f"tests/simt/{name}_test.cc"] for name in ["rows", "attention", "sample", "skinny_matmul"]}

DECODE, PREFILL = CUDA + "attention_decode.h", CUDA + "attention_prefill.h"
PAGED, WORK, NORM = CUDA + "paged_kv.h", CUDA + "attention_work.cc", CUDA + "norm.h"
QUANTIZE = CUDA + "quantize_rows.h"
ROPE, ELEMENT, ROWS = CUDA + "rope.h", CUDA + "elementwise.h", CUDA + "rows.h"
SAMPLE, SKINNY = CUDA + "sample.h", CUDA + "skinny_matmul.h"
# (what is wrong, file, text, text in its place); the text must occur exactly once.
MUTANTS = [
    # --- both attentions ---
    ("rows before the window are read", PAGED, "row >= begin && row < end", "row < end"),
    ("rows past the end are read", PAGED, "row >= begin && row < end", "row >= begin"),
    ("a row that saw nothing yet is no number", PAGED,
     "return max == simt::neg_infinity() ? 0.0f : max;", "return max;"),
    ("soft-caps are ignored", PAGED, "return softcap_log2 > 0 ?", "return softcap_log2 > 1e9f ?"),
    ("tiles meet banks twice", PAGED, "kStride = D + 8;", "kStride = D;"),
    ("matrices of an operand b change places", PAGED,
     "&tile.at[row + lane % 8 + lane / 16 * 8][col + lane / 8 % 2 * 8]);\n}\n// As two operands b: r[0], "
     "r[1] for the tile's columns",
     "&tile.at[row + lane % 16][col + lane / 16 * 8]);\n}\n// As two operands b: r[0], "
     "r[1] for the tile's columns"),
    # --- decode ---
    ("decode forgets the window", DECODE,
     "src.begin = window_begin > chunk_begin ? window_begin : chunk_begin;",
     "src.begin = chunk_begin;"),
    ("decode reads past the last token", DECODE,
     "src.end = seq_len < chunk_end ? seq_len : chunk_end;", "src.end = chunk_end;"),
    ("decode does not rescale one of its values", DECODE, "state.out[r][d][c] *= shrink;", ""),
    ("decode does not rescale its sum", DECODE, "state.sum[r][c] * shrink + s[r][c]",
     "state.sum[r][c] + s[r][c]"),
    ("decode's maximum misses lanes", DECODE,
     "for (int mask = 4; mask < 32; mask *= 2) top", "for (int mask = 8; mask < 32; mask *= 2) top"),
    ("decode's sum misses lanes", DECODE,
     "for (int mask = 4; mask < 32; mask *= 2) sum", "for (int mask = 8; mask < 32; mask *= 2) sum"),
    ("decode overwrites a stage in use", DECODE, "    simt::sync_warp();\n    const int ahead",
     "    const int ahead"),
    ("decode waits for a copy too few", DECODE, "simt::cp_async_wait<kStages - 2>();",
     "simt::cp_async_wait<kStages - 1>();"),
    ("decode skips empty groups", DECODE,
     "mine.stages[ahead % kStages]);\n    simt::cp_async_commit();",
     "mine.stages[ahead % kStages]);\n    if (ahead < num_tiles) simt::cp_async_commit();"),
    ("decode publishes over stages in use", DECODE,
     "  simt::sync_warp();  // `out` lies over stages that other lanes may still read\n", ""),
    ("decode merges warps before they are done", DECODE,
     "(shared.warp[warp], state);\n  simt::sync_block();\n", "(shared.warp[warp], state);\n"),
    ("decode draws its ticket before its results are written", DECODE,
     "    simt::sync_block();  // all of the block's partial results, before the ticket\n", ""),
    ("decode leaves its ticket", DECODE, "if (shared.is_last) *ticket = 0;", ""),
    ("nobody is the last to draw", DECODE, "uint32_t(num_chunks - 1)", "uint32_t(num_chunks)"),
    ("decode reads who is last too early", DECODE,
     "    simt::sync_block();\n    if (shared.is_last)", "    if (shared.is_last)"),
    ("decode's next item overwrites the last one's results", DECODE,
     "  simt::sync_block();  // the next item overwrites shared memory\n", ""),
    ("decode's partial results begin at the context's first chunk", DECODE,
     "(item.chunk - item.first_chunk) *", "item.chunk *"),
    ("decode takes one block for all tiles", DECODE, "simt::shuffle(src.block_of_lane, tile)",
     "simt::shuffle(src.block_of_lane, 0)"),
    ("decode begins at a block's first slot", DECODE,
     "const int slot = token & ((1 << src.block_shift) - 1);", "const int slot = 0;"),
    ("merging keeps the old scale", DECODE,
     "const float keep = simt::exp2_approx(max - finite(top));", "const float keep = 1;"),
    # --- prefill ---
    ("prefill sees the future", PREFILL, "token >= begin && token < state.end[r] ?",
     "token >= begin ?"),
    ("prefill forgets the window", PREFILL, "token >= begin && token < state.end[r] ?",
     "token < state.end[r] ?"),
    ("a token does not see itself", PREFILL, "(row + r * 8) / p.group + 1;",
     "(row + r * 8) / p.group;"),
    ("prefill reads tiles that have not landed for all", PREFILL,
     "    simt::sync_block();  // everybody's part of tile t has landed\n", ""),
    ("prefill overwrites a tile in use", PREFILL,
     "    simt::sync_block();  // nobody reads tile t any more: the next fetch overwrites it\n", ""),
    ("prefill reads queries that are not there yet", PREFILL,
     "  simt::sync_block();\n  const PrefillQueries", "  const PrefillQueries"),
    ("prefill waits for a copy too few", PREFILL, "simt::cp_async_wait<1>();",
     "simt::cp_async_wait<2>();"),
    ("prefill does not rescale one of its values", PREFILL,
     "state.out[d][2 * r + 1] *= shrink;", ""),
    ("prefill's sum misses lanes", PREFILL, "    sum += simt::shuffle_xor(sum, 2);\n", ""),
    ("prefill's maximum misses lanes", PREFILL,
     "    top = simt::max(top, simt::shuffle_xor(top, 2));\n", ""),
    ("prefill stores all heads as the first", PREFILL,
     "const int head = rows.kv_head * p.group + (rows.first_row + row) % p.group;",
     "const int head = rows.kv_head * p.group;"),
    ("prefill stores rows that are not its own", PREFILL,
     "    if (row >= rows.num_rows) continue;\n", ""),
    ("prefill's tiles begin anywhere", PREFILL, "const int first = rows.begin / kTokens * kTokens;",
     "const int first = rows.begin;"),
    # --- lists of work ---
    ("short items come first", WORK, "left != right ? left > right", "left != right ? left < right"),
    ("chunks before the window are computed", WORK, "const int first = visible / kDecodeChunk",
     "const int first = 0"),
    ("partial results of two sequences meet", WORK,
     "  partials += mine;\n", "  partials = mine;\n"),
    ("a round leaves more than there is room for", WORK, "if (partials + mine > max_partials)",
     "if (partials > max_partials)"),
    ("a round begins behind the last one's partial results", WORK, "    partials = 0;\n", ""),
    ("a prompt's last token alone is a decode", WORK, "if (s < num_decodes) {",
     "if (num_queries == 1) {"),
    # --- rows ---
    ("a row's sum is read before it is there", NORM, "  simt::sync_block();\n  float sum = 0;",
     "  float sum = 0;"),
    ("the sum stays where the residual was", NORM, "      store<kVector>(residual + i, v);\n", ""),
    ("the norm is of the sum before rounding", NORM,
     "      load<kVector>(v, residual + i);  // as rounded: who reads the residual later sees the same\n",
     ""),
    ("a warp rotates over the head before", ROPE,
     "  simt::sync_warp();  // the head before has been read\n", ""),
    ("a warp rotates with what is not there yet", ROPE,
     "row[at] = h.v[i];\n  }\n  simt::sync_warp();\n", "row[at] = h.v[i];\n  }\n"),
    ("rotation goes the other way", ROPE, "at < half ? -row[at + half]", "at < half ? row[at + half]"),
    ("the norm before a rotation is not rounded", ROPE, "h.v[i] = simt::to_float(rounded);",
     "h.v[i] = h.v[i] * scale * weight[at];"),
    ("slots are taken for rows", ROPE, "int64_t{slot % p.block_size} * p.slot_stride",
     "int64_t{slot} * p.slot_stride"),
    ("silu of the opposite", ELEMENT, "simt::exp(-x)", "simt::exp(x)"),
    ("the gate is multiplied with itself", ELEMENT, "const T* up = gate + p.dim;",
     "const T* up = gate;"),
    ("rows are not scattered", ROWS, "p.to != nullptr ? p.to[row] : row", "row"),
    ("only a row's first part is copied", ROWS,
     "const int64_t step = int64_t{kCopyThreads} * p.parts * kBytes;",
     "const int64_t step = int64_t{1} << 40;"),
    ("a row's scale is of its first warp", QUANTIZE,
     "largest = simt::max(largest, shared.of_warp[w]);", "largest = shared.of_warp[0];"),
    ("a row's scale is read before it is there", QUANTIZE, "  simt::sync_block();\n", ""),
    ("negative values have no size", QUANTIZE, "simt::max(v[k], -v[k])", "v[k]"),
    ("a row of zeros divides by zero", QUANTIZE, "largest = 1e-30f;", "largest = 0;"),
    ("codes are of the row before", QUANTIZE, "p.out + row * p.dim + i", "p.out + i"),
    ("values are divided by their scale's inverse", QUANTIZE, "kMaxE4m3 / largest", "largest / kMaxE4m3"),
    # --- sampler ---
    ("no number is a number", SAMPLE, "simt::max(x, simt::neg_infinity()) + 0.0f", "x + 0.0f"),
    ("-0 is below 0", SAMPLE, "simt::max(x, simt::neg_infinity()) + 0.0f",
     "simt::max(x, simt::neg_infinity())"),
    ("no number has a weight", SAMPLE, "simt::max(simt::exp((x - max) * factor), 0.0f)",
     "simt::exp((x - max) * factor)"),
    ("a cut keeps one more", SAMPLE, "k == key && id < end", "k == key && id <= end"),
    ("all equals stay", SAMPLE, "find(row.size, goal, is_equal, shared).at + 1", "row.size"),
    ("the last of equals never stays out alone", SAMPLE, "goal > equals - one",
     "goal >= equals - one"),
    ("a bin of 64 bits loses its carry", SAMPLE, " + uint32_t{carry}", ""),
    ("a later digit starts from the row's best", SAMPLE, "    goal -= found.before;\n", ""),
    ("bins are filled before they are empty", SAMPLE,
     "shared.bins.high[b] = 0;\n    simt::sync_block();\n", "shared.bins.high[b] = 0;\n"),
    ("bins are read before they are full", SAMPLE,
     "    });\n    simt::sync_block();\n    const auto bin", "    });\n    const auto bin"),
    ("parts are compared before they are summed", SAMPLE,
     "    simt::sync_block();\n    int w = 0;", "    int w = 0;"),
    ("parts are overwritten while they are compared", SAMPLE,
     "    found.measure = shared.of_warp[w];\n    simt::sync_block();\n",
     "    found.measure = shared.of_warp[w];\n"),
    ("a sum is overwritten while it is read", SAMPLE,
     "  simt::sync_block();\n  return v;", "  return v;"),
    ("top-p is of all tokens", SAMPLE,
     "const uint64_t left = total(weights, cut, mass, shared);\n    const uint64_t goal",
     "const uint64_t left = total(weights, Cut{}, mass, shared);\n    const uint64_t goal"),
    ("top-p may keep none", SAMPLE, "goal > 0 ? goal : 1", "goal"),
    ("min-p drops what is just as likely", SAMPLE, "cut = {key, weights.size};", "cut = {key, 0};"),
    ("min-p takes back top-k", SAMPLE, "if (key > cut.key) cut", "cut"),
    ("the random number is of all tokens", SAMPLE,
     "const uint64_t left = total(weights, cut, mass, shared);\n  const auto position",
     "const uint64_t left = total(weights, Cut{}, mass, shared);\n  const auto position"),
    ("the first random number draws what has no weight", SAMPLE, "simt::mul_high(random, left) + 1",
     "simt::mul_high(random, left)"),
    ("a cold draw multiplies by infinity", SAMPLE,
     "1 / temperature < 1e30f ? 1 / temperature : 1e30f", "1 / temperature"),
    ("the prompt counts as generated", SAMPLE, "if (count > 0) x -=", "x -="),
    ("repetition makes unlikely tokens likelier", SAMPLE,
     "x > 0 ? x / repetition : x * repetition", "x / repetition"),
    ("biases are added before penalties are there", SAMPLE,
     "  simt::sync_block();\n  if (simt::thread_id() == 0 && unseen >= 0 && shared.count == 0) "
     "penalise(unseen, 1);\n  simt::sync_block();\n",
     "  if (simt::thread_id() == 0 && unseen >= 0 && shared.count == 0) penalise(unseen, 1);\n"),
    ("a token that the history lacks is not counted where it occurs", SAMPLE,
     "p.history_counts[h] + (id == unseen ? 1 : 0)", "p.history_counts[h]"),
    ("a token that the history lacks is penalised twice", SAMPLE,
     "unseen >= 0 && shared.count == 0) penalise", "unseen >= 0) penalise"),
    ("a token that the history lacks is forgotten", SAMPLE,
     "simt::thread_id() == 0 && unseen >= 0 &&", "false &&"),
    ("biases of one token race", SAMPLE, "if (id % simt::num_threads() ==",
     "if (b % simt::num_threads() =="),
    ("all tokens have the first words of the mask", SAMPLE, "mask[id / 32]", "mask[id / 32 % 2]"),
    ("a ban of everything goes unnoticed", SAMPLE,
     "greedy = true;  // everything is banned: the raw argmax", ""),
    ("the best are listed last first", SAMPLE, "shared.best[j] > rank", "shared.best[j] < rank"),
    ("the list of the best begins anywhere", SAMPLE,
     "shared.count = 0;\n  simt::sync_block();\n  row.for_each",
     "shared.count = 0;\n  row.for_each"),
    ("past the vocabulary there is token 0", SAMPLE, "place = i, token = -1;", "place = i, token = 0;"),
    ("blocks share their scratch", SAMPLE, "int64_t{simt::block_id()} * p.raw.vocab", "0"),
    # --- products with few rows ---
    ("weights past the last row are read", SKINNY, "row < num_rows ? p.w + row * p.w_stride + at : nullptr",
     "p.w + row * p.w_stride + at"),
    ("tokens past the last are read", SKINNY, "token < p.n ? p.x + token * p.x_stride + at : nullptr",
     "p.x + token * p.x_stride + at"),
    ("a slice goes on into the next", SKINNY, "from != nullptr && step < end ?", "from != nullptr ?"),
    ("the last step goes on past k", SKINNY, "end < own_steps ? end : own_steps", "end"),
    ("operands take k in different orders", SKINNY, "{w[0].z, w[1].z, w[0].w, w[1].w}",
     "{w[0].w, w[1].w, w[0].z, w[1].z}"),
    ("half of each step is left out", SKINNY, "      simt::mma(T{}, sum[t], second, x[t].z, x[t].w);\n", ""),
    ("steps ahead are skipped", SKINNY, "next[i].load(from, step + kAhead + i, own_end)",
     "next[i].load(from, step + kAhead + i + 1, own_end)"),
    ("sums are read before they are there", SKINNY, "          sum[t][i];\n  }\n  simt::sync_block();",
     "          sum[t][i];\n  }"),
    ("a slice is left out of the sum", SKINNY, "for (int s = 0; s < kSlices; ++s) total",
     "for (int s = 1; s < kSlices; ++s) total"),
    ("token and row change places", SKINNY, "[8 * t + lane % 4 * 2 + i % 2]", "[8 * t + lane % 4 * 2 + i / 2]"),
    ("further tokens are the first ones", SKINNY,
     "simt::block_id() / row_blocks * 8 * kTiles;\n  skinny_partials<T, Out,",
     "0 * row_blocks;\n  skinny_partials<T, Out,"),
    ("ups are gates", SKINNY, "return first_row + group * p.m;", "return first_row;"),
    ("gates are not rounded", SKINNY, "activate<Gate::silu>(simt::to_float(gate))",
     "activate<Gate::silu>(shared.sum(token, i % 16) + (p.bias != nullptr ? p.bias[row] : 0))"),
    ("ups have the gates' bias", SKINNY, "p.bias[p.m + row]", "p.bias[row]"),
]


def users_of(header):
    name = header.removeprefix(CUDA)
    return [CUDA + user for user in USERS.get(name, [name.removesuffix(".h") + ".cu"])]


if __name__ == "__main__":
    mutation.main(__doc__, MUTANTS,
                  [mutation.Build(SOURCES, PROGRAMS, packages=["fmt"]),
                   mutation.Build(SOURCES, PROGRAMS, ["-O1", "-fsanitize=thread", "-Wno-tsan"],
                                  packages=["fmt"], name="-race", timeout_s=600)],
                  ["base", "kernels", "tests/simt"], users_of)
