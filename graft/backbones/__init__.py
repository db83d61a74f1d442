"""Pretrained networks by name: `SOURCE:NAME`. One file per source; a new file dropped in here is a new source."""
