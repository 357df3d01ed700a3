"""Which blocks are on the table."""

import enum


class LanguageTableBlockVariants(enum.Enum):
    BLOCK_8 = 8
