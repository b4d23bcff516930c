"""Small graphs with control flow, as texts: what derivatives and batching are tested on besides the op table."""

from __future__ import annotations

TEXTS = {
    "dense": """
graph dense(%x: f64[3,4], %w: f64[4,2]) -> f64[3]:
  %0 = dot %x, %w {x_contract=(1,) y_contract=(0,) x_batch=() y_batch=()} : f64[3,2]
  %1 = tanh %0 : f64[3,2]
  %2 = mul %1, %0 : f64[3,2]
  %3 = sum %2 {axes=(1,)} : f64[3]
  return %3
""",
    # A value read in three slices: its cotangent is added into, part by part.
    "slices": """
graph slices(%x: f64[9]) -> f64[3]:
  %0 = slice %x {start=(0,) stop=(3,) step=(1,)} : f64[3]
  %1 = slice %x {start=(3,) stop=(6,) step=(1,)} : f64[3]
  %2 = slice %x {start=(6,) stop=(9,) step=(1,)} : f64[3]
  %3 = mul %0, %1 : f64[3]
  %4 = mul %3, %2 : f64[3]
  return %4
""",
    "rnn": """
graph rnn(%w: f64[3,3], %h: f64[3], %xs: f64[5,3]) -> (f64[3], f64[5,3]):
  %0 = scan [%w], [%h], [%xs] {length=5} : (f64[3], f64[5,3])
    body = graph step(%w: f64[3,3], %h: f64[3], %x: f64[3]) -> (f64[3], f64[3]):
      %a = dot %w, %h {x_contract=(1,) y_contract=(0,) x_batch=() y_batch=()} : f64[3]
      %b = add %a, %x : f64[3]
      %c = tanh %b : f64[3]
      %d = mul %c, %h : f64[3]
      return %c, %d
  %1 = get %0 {index=0} : f64[3]
  %2 = get %0 {index=1} : f64[5,3]
  return %1, %2
""",
    # Backwards, with the step's number among what it reads.
    "counted": """
graph counted(%h: f64[2], %xs: f64[4,2]) -> (f64[2], f64[4,2]):
  %0 = scan [], [%h], [%xs] {length=4 reverse=True counted=True} : (f64[2], f64[4,2])
    body = graph step(%t: i64[], %h: f64[2], %x: f64[2]) -> (f64[2], f64[2]):
      %n = convert %t {to=f64} : f64[]
      %m = broadcast %n {to=(2,) axes=()} : f64[2]
      %a = mul %h, %x : f64[2]
      %b = sin %a : f64[2]
      %c = mul %b, %m : f64[2]
      %d = add %c, %x : f64[2]
      return %d, %c
  %1 = get %0 {index=0} : f64[2]
  %2 = get %0 {index=1} : f64[4,2]
  return %1, %2
""",
    # One carry stays the same for all members of a batch while the other does not, and both are read behind the loop.
    "parts": """
graph parts(%x: f64[2], %k: f64[]) -> f64[2]:
  %0 = scan [], [%x, %k], [] {length=3} : (f64[2], f64[])
    body = graph step(%x: f64[2], %k: f64[]) -> (f64[2], f64[]):
      %c = broadcast %k {to=(2,) axes=()} : f64[2]
      %a = mul %x, %c : f64[2]
      %b = sin %k : f64[]
      return %a, %b
  %1 = get %0 {index=0} : f64[2]
  %2 = get %0 {index=1} : f64[]
  %3 = exp %2 : f64[]
  %4 = broadcast %3 {to=(2,) axes=()} : f64[2]
  %5 = mul %1, %4 : f64[2]
  return %5
""",
    # No step at all: the carry goes through, and so does its cotangent.
    "never": """
graph never(%h: f64[2], %xs: f64[0,2]) -> f64[2]:
  %0 = scan [], [%h], [%xs] {length=0} : (f64[2])
    body = graph step(%h: f64[2], %x: f64[2]) -> f64[2]:
      %a = mul %h, %x : f64[2]
      return %a
  %1 = get %0 {index=0} : f64[2]
  return %1
""",
    "branches": """
graph branches(%x: f64[3], %y: f64[3]) -> f64[3]:
  %s = sum %x {axes=(0,)} : f64[]
  %z = full 0.0 : f64[]
  %p = lt %s, %z : bool[]
  %0 = switch %p, [%x, %y] : (f64[3])
    branches[0] = graph no(%x: f64[3], %y: f64[3]) -> f64[3]:
      %a = mul %x, %y : f64[3]
      return %a
    branches[1] = graph yes(%x: f64[3], %y: f64[3]) -> f64[3]:
      %a = exp %x : f64[3]
      return %a
  %1 = get %0 {index=0} : f64[3]
  return %1
""",
    # Order is no dependence: what is waited for moves too, and adds nothing.
    "ordered": """
graph ordered(%x: f64[3], %y: f64[3]) -> f64[3]:
  %a = exp %y : f64[3]
  %b = mul %x, %y : f64[3]
  %c = after %b, [%a, %y] : f64[3]
  %d = mul %c, %a : f64[3]
  return %d
""",
    "called": """
graph called(%x: f64[3]) -> f64[3]:
  %0 = call [%x] : (f64[3])
    body = graph inner(%x: f64[3]) -> f64[3]:
      %a = log1p %x : f64[3]
      %b = mul %a, %x : f64[3]
      return %b
  %1 = get %0 {index=0} : f64[3]
  return %1
""",
}

# Not transposable (how often it runs is data), but with tangents and batches; elements stop at different times.
WHILE = """
graph halve(%x: f64[], %limit: f64[]) -> f64[]:
  %0 = while [%limit], [%x] : (f64[])
    condition = graph large(%limit: f64[], %x: f64[]) -> bool[]:
      %a = gt %x, %limit : bool[]
      return %a
    body = graph step(%limit: f64[], %x: f64[]) -> f64[]:
      %h = full 0.5 : f64[]
      %a = mul %x, %h : f64[]
      return %a
  %1 = get %0 {index=0} : f64[]
  return %1
"""
