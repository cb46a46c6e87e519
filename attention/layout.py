"""Where the tokens of a self-attention stand: a clip of frames x height x width, and text in front of it or behind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLayout:
    """The token sequence of one self-attention. Video tokens are numbered frame by frame, row by row, from 0."""

    frames: int
    height: int
    width: int
    text: int = 0
    text_first: bool = False

    @property
    def frame(self) -> int:
        """Tokens of a frame."""
        return self.height * self.width

    @property
    def video(self) -> int:
        return self.frames * self.frame

    @property
    def tokens(self) -> int:
        return self.video + self.text

    @property
    def video_rows(self) -> slice:
        """Where the video tokens stand in the sequence."""
        return slice(self.text, None) if self.text_first else slice(0, self.video)

    @property
    def text_rows(self) -> slice:
        return slice(0, self.text) if self.text_first else slice(self.video, None)
