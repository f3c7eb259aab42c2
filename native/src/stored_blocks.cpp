// Block layouts as in the GGUF specification and ggml's block structures. Offsets are in bytes, `half` is fp16,
// nibbles are low half first. A super-block of 256 values has groups g = 0..7 of 32 and scales s = 0..15 of 16.
#include "stored_blocks.h"

#include <cstring>
#include <iterator>
#include <stdexcept>

#include "fp16.h"

namespace stoker {

namespace {

struct Format {
  SourceType type;
  const char* name;
  int block_values;
  int block_bytes;
};

constexpr Format kFormats[] = {
    {SourceType::f32, "F32", 1, 4},           {SourceType::f16, "F16", 1, 2},
    {SourceType::bf16, "BF16", 1, 2},         {SourceType::q4_0, "Q4_0", 32, 18},
    {SourceType::q4_1, "Q4_1", 32, 20},       {SourceType::q5_0, "Q5_0", 32, 22},
    {SourceType::q5_1, "Q5_1", 32, 24},       {SourceType::q8_0, "Q8_0", 32, 34},
    {SourceType::q2_k, "Q2_K", 256, 84},      {SourceType::q3_k, "Q3_K", 256, 110},
    {SourceType::q4_k, "Q4_K", 256, 144},     {SourceType::q5_k, "Q5_K", 256, 176},
    {SourceType::q6_k, "Q6_K", 256, 210},     {SourceType::iq4_nl, "IQ4_NL", 32, 18},
    {SourceType::iq4_xs, "IQ4_XS", 256, 136}, {SourceType::mxfp4, "MXFP4", 32, 17},
};

constexpr bool in_order() {
  for (int i = 0; i < static_cast<int>(std::size(kFormats)); ++i) {
    if (static_cast<int>(kFormats[i].type) != i) return false;
  }
  return true;
}
static_assert(in_order());

constexpr int kTableZero = 128;
// IQ4_NL and IQ4_XS: what a code of 4 bits means, plus kTableZero.
constexpr uint8_t kNonLinear[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

constexpr int kFp4Zero = 12;
// MXFP4: twice the value of an E2M1 float, plus kFp4Zero.
constexpr uint8_t kFp4[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

const Format& format_of(SourceType type) { return kFormats[static_cast<int>(type)]; }

uint16_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float load_half(const uint8_t* p) { return float_from_half(load16(p)); }

// 16 bytes: value i in the low nibble of byte i, value 16 + i in its high nibble.
void split_nibbles(const uint8_t* packed, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = packed[i] & 15;
    codes[i + 16] = packed[i] >> 4;
  }
}

void look_up(const uint8_t* table, uint8_t* codes) {
  for (int i = 0; i < kGroup; ++i) codes[i] = table[codes[i]];
}

// A little-endian word of 32 bits: bit i is bit 4 of code i.
void add_fifth_bits(const uint8_t* p, uint8_t* codes) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  for (int i = 0; i < kGroup; ++i) codes[i] = static_cast<uint8_t>(codes[i] | (((bits >> i) & 1u) << 4));
}

// Byte i holds 2 bits of value i of four groups, the first of them lowest.
int crumb(const uint8_t* quarter, int g, int i) { return (quarter[i] >> (2 * (g % 4))) & 3; }

// Blocks of 32.

void read_q4_0(const uint8_t* p, StoredGroup& out) {  // half d; 16 bytes of nibbles; w = d * (code - 8)
  split_nibbles(p + 2, out.codes);
  out.zero = 8, out.scale = load_half(p), out.offset = 0;
}

void read_q4_1(const uint8_t* p, StoredGroup& out) {  // half d, half m; 16 bytes of nibbles; w = d * code + m
  split_nibbles(p + 4, out.codes);
  out.zero = 0, out.scale = load_half(p), out.offset = load_half(p + 2);
}

void read_q5_0(const uint8_t* p, StoredGroup& out) {  // half d; fifth bits; 16 bytes of nibbles; w = d * (code - 16)
  split_nibbles(p + 6, out.codes);
  add_fifth_bits(p + 2, out.codes);
  out.zero = 16, out.scale = load_half(p), out.offset = 0;
}

void read_q5_1(const uint8_t* p, StoredGroup& out) {  // half d, half m; fifth bits; nibbles; w = d * code + m
  split_nibbles(p + 8, out.codes);
  add_fifth_bits(p + 4, out.codes);
  out.zero = 0, out.scale = load_half(p), out.offset = load_half(p + 2);
}

void read_q8_0(const uint8_t* p, StoredGroup& out) {  // half d; 32 signed bytes; w = d * q
  for (int i = 0; i < kGroup; ++i) out.codes[i] = static_cast<uint8_t>(p[2 + i] ^ 0x80);
  out.zero = 128, out.scale = load_half(p), out.offset = 0;
}

void read_iq4_nl(const uint8_t* p, StoredGroup& out) {  // half d; 16 bytes of nibbles; w = d * table[code]
  split_nibbles(p + 2, out.codes);
  look_up(kNonLinear, out.codes);
  out.zero = kTableZero, out.scale = load_half(p), out.offset = 0;
}

void read_mxfp4(const uint8_t* p, StoredGroup& out) {  // byte e; 16 bytes of nibbles; w = 2^(e - 127) * E2M1
  split_nibbles(p + 1, out.codes);
  look_up(kFp4, out.codes);
  // The table has twice the value, so half the scale: 2^(e - 128), subnormal for e < 2.
  const uint32_t bits = p[0] < 2 ? 0x00200000u << p[0] : static_cast<uint32_t>(p[0] - 1) << 23;
  out.zero = kFp4Zero, out.scale = float_from_bits(bits), out.offset = 0;
}

// Super-blocks of 256.

struct Pair {
  int scale, minimum;
};

// Q4_K, Q5_K: 12 bytes hold 8 scales and 8 minimums of 6 bits.
//   byte g (g < 4): scale g, and above it 2 high bits of scale g + 4
//   byte g + 4 (g < 4): minimum g, and above it 2 high bits of minimum g + 4
//   byte g + 4 (g >= 4): low nibbles of scale g and minimum g
Pair read_pair(const uint8_t* p, int g) {
  if (g < 4) return {p[g] & 63, p[g + 4] & 63};
  return {(p[g + 4] & 15) | ((p[g - 4] >> 6) << 4), (p[g + 4] >> 4) | ((p[g] >> 6) << 4)};
}

// half d, half dmin; 12 bytes of scales and minimums; Q5_K: 32 bytes whose bit g is group g's fifth bit;
// 4 x 32 bytes: group 2v in the low, group 2v + 1 in the high nibbles. w = d * scale * code - dmin * minimum
void read_q4_k(const uint8_t* p, int g, bool fifth_bits, StoredGroup& out) {
  const uint8_t* high = p + 16;
  const uint8_t* low = high + (fifth_bits ? 32 : 0) + 32 * (g / 2);
  for (int i = 0; i < kGroup; ++i) {
    const int bit = fifth_bits ? (high[i] >> g) & 1 : 0;
    out.codes[i] = static_cast<uint8_t>(((low[i] >> (4 * (g % 2))) & 15) | (bit << 4));
  }
  const Pair pair = read_pair(p + 4, g);
  out.zero = 0;
  out.scale = load_half(p) * static_cast<float>(pair.scale);
  out.offset = -(load_half(p + 2) * static_cast<float>(pair.minimum));
}

// Q3_K's 12 bytes of scales, 6 bits minus 32: low nibbles of scales 0..7 and high nibbles of the same bytes for
// 8..15; 2 high bits of scale s in byte 8 + s % 4 from bit 2 * (s / 4) on.
int read_q3_k_scale(const uint8_t* p, int s) {
  const int low = s < 8 ? p[s] & 15 : p[s - 8] >> 4;
  return (low | (((p[8 + s % 4] >> (2 * (s / 4))) & 3) << 4)) - 32;
}

// 32 bytes whose bit g is group g's third bit; 2 x 32 bytes of crumbs; 12 bytes of scales; half d.
// w = d * scale * (code - 4). Scale times (code - 4) is a whole number in -124..128: with its sign turned, and the
// sign of d, it fits a code of 8 bits around 128.
void read_q3_k(const uint8_t* p, int g, StoredGroup& out) {
  for (int i = 0; i < kGroup; ++i) {
    const int code = crumb(p + 32 + 32 * (g / 4), g, i) | (((p[i] >> g) & 1) << 2);
    out.codes[i] = static_cast<uint8_t>(128 - read_q3_k_scale(p + 96, 2 * g + i / 16) * (code - 4));
  }
  out.zero = 128, out.scale = -load_half(p + 108), out.offset = 0;
}

// half d; 2 bytes: 2 high bits of each scale; 4 bytes: low nibbles of the scales; 8 x 16 bytes of nibbles.
// w = d * (scale - 32) * table[code]
void read_iq4_xs(const uint8_t* p, int g, StoredGroup& out) {
  split_nibbles(p + 8 + 16 * g, out.codes);
  look_up(kNonLinear, out.codes);
  const int low = (p[4 + g / 2] >> (4 * (g % 2))) & 15;
  const int high = (load16(p + 2) >> (2 * g)) & 3;
  out.zero = kTableZero, out.scale = load_half(p) * static_cast<float>((low | (high << 4)) - 32), out.offset = 0;
}

// 16 bytes: scale in the low, minimum in the high nibble; 2 x 32 bytes of crumbs; half d, half dmin.
// w = d * scale * code - dmin * minimum
void read_q2_k(const uint8_t* p, int g, float* out) {
  const float d = load_half(p + 80), dmin = load_half(p + 82);
  for (int i = 0; i < kGroup; ++i) {
    const int s = p[2 * g + i / 16];
    out[i] = d * static_cast<float>((s & 15) * crumb(p + 16 + 32 * (g / 4), g, i)) - dmin * static_cast<float>(s >> 4);
  }
}

// 2 x 64 bytes: groups 4v and 4v + 1 in the low, 4v + 2 and 4v + 3 in the high nibbles; 2 x 32 bytes of crumbs, the
// two high bits; 16 signed bytes of scales; half d. w = d * scale * (code - 32)
void read_q6_k(const uint8_t* p, int g, float* out) {
  const float d = load_half(p + 208);
  const uint8_t* low = p + 64 * (g / 4) + 32 * (g % 2);
  for (int i = 0; i < kGroup; ++i) {
    const int code = ((low[i] >> (g % 4 < 2 ? 0 : 4)) & 15) | (crumb(p + 128 + 32 * (g / 4), g, i) << 4);
    out[i] = d * static_cast<float>(static_cast<int8_t>(p[192 + 2 * g + i / 16]) * (code - 32));
  }
}

void read_plain(SourceType type, const uint8_t* p, float* out) {
  if (type == SourceType::f32) {
    std::memcpy(out, p, kGroup * sizeof(float));
    return;
  }
  for (int i = 0; i < kGroup; ++i) {
    const uint16_t half = load16(p + 2 * i);
    out[i] = type == SourceType::f16 ? float_from_half(half) : float_from_bfloat(half);
  }
}

struct Place {
  const uint8_t* block;
  int group;  // in the block
};

Place find_group(SourceType type, const uint8_t* row, int group) {
  const Format& format = format_of(type);
  const int value = group * kGroup;
  const size_t block = static_cast<size_t>(value / format.block_values);
  return {row + block * static_cast<size_t>(format.block_bytes), value % format.block_values / kGroup};
}

}  // namespace

SourceType source_type(const std::string& name) {
  for (const Format& format : kFormats) {
    if (name == format.name) return format.type;
  }
  throw std::invalid_argument("unknown tensor type " + name);
}

size_t source_row_size(SourceType type, int k) {
  const Format& format = format_of(type);
  const int unit = format.block_values > kGroup ? format.block_values : kGroup;
  if (k <= 0 || k % unit != 0) {
    throw std::invalid_argument("a row of " + std::to_string(k) + " values is not a multiple of " +
                                std::to_string(unit));
  }
  return static_cast<size_t>(k / format.block_values) * static_cast<size_t>(format.block_bytes);
}

bool is_plain(SourceType type) { return format_of(type).block_values == 1; }

void read_group(SourceType type, const uint8_t* row, int group, StoredGroup& out) {
  const auto [p, g] = find_group(type, row, group);
  switch (type) {
    case SourceType::q4_0: return read_q4_0(p, out);
    case SourceType::q4_1: return read_q4_1(p, out);
    case SourceType::q5_0: return read_q5_0(p, out);
    case SourceType::q5_1: return read_q5_1(p, out);
    case SourceType::q8_0: return read_q8_0(p, out);
    case SourceType::q3_k: return read_q3_k(p, g, out);
    case SourceType::q4_k: return read_q4_k(p, g, false, out);
    case SourceType::q5_k: return read_q4_k(p, g, true, out);
    case SourceType::iq4_nl: return read_iq4_nl(p, out);
    case SourceType::iq4_xs: return read_iq4_xs(p, g, out);
    case SourceType::mxfp4: return read_mxfp4(p, out);
    default: throw std::logic_error("this tensor type has no groups of 32");
  }
}

void read_values(SourceType type, const uint8_t* row, int group, float* out) {
  const auto [p, g] = find_group(type, row, group);
  if (is_plain(type)) return read_plain(type, p, out);
  if (type == SourceType::q2_k) return read_q2_k(p, g, out);
  if (type == SourceType::q6_k) return read_q6_k(p, g, out);
  StoredGroup stored;
  read_group(type, row, group, stored);
  for (int i = 0; i < kGroup; ++i) {
    out[i] = static_cast<float>(stored.codes[i] - stored.zero) * stored.scale + stored.offset;
  }
}

}  // namespace stoker
