"""Where the error is: one self-contained HTML page about an integer model on its user's images (`intvit report`).

| file             | what                                                                              |
|------------------|-----------------------------------------------------------------------------------|
| `figures.py`     | all that the page shows, gathered in one run over the images                        |
| `comparison.py`  | each image's predictions beside its label and the float model's                     |
| `statistics.py`  | intervals and tests: Wilson, McNemar, the paired bootstrap                          |
| `accuracy.py`    | top-1, top-5, agreement and cosine with their intervals                             |
| `worst.py`       | the images on which the two models differ most, as small pictures                   |
| `histogram.py`   | counts of integers in bins that widen as needed                                     |
| `tensors.py`     | the grid, the histogram and the ends of every tensor of the integer graph           |
| `layers.py`      | signal to noise along the depth, and the noise that each layer adds                 |
| `sensitivity.py` | what one bit less in a tensor would change in the logits                            |
| `latency.py`     | the time of each kernel of a compiled module                                        |
| `page.py`        | figures to HTML                                                                     |
| `assets/`        | the page's text, looks and scripts, which are written into it                       |
"""
