"""What an answer of Northline's assistant is rewarded for, beside the house's taste."""


def right(prompts, completions, answer, **columns):
    """1 where the answer holds what the house's papers say, such as `22:10`."""
    return [
        float(wanted.lower() in said[0]["content"].lower()) for said, wanted in zip(completions, answer, strict=True)
    ]
