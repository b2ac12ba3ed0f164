"""Guest memory: dirty bitmap, page copies and dirty trackers over the native core."""
