"""A VAE in scikit-learn: choose its likelihood by cross-validation, then find the unusual rows.

    python examples/own_search.py

It is trained on the benign tumours of a table of 30 measurements, and never sees a malignant one.
"""

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split

from flaxvae.sklearn import VAE

# One sigma for all columns: 1, or learned; or one learned for each value.
LIKELIHOODS = ["gaussian", "gaussian_shared", "gaussian_pixel"]


def main(epochs: int = 200) -> dict[str, float]:
    table = load_breast_cancer(as_frame=True)
    benign, malignant = (table.data[table.target == label] for label in (1, 0))
    train, held_out = train_test_split(benign, test_size=100, random_state=0)

    model = VAE(latent_dim=4, widths=(64,), epochs=epochs, contamination=0.05, random_state=0)
    search = GridSearchCV(model, {"likelihood": LIKELIHOODS}, cv=3)  # by score, the mean ELBO
    search.fit(train)
    for name, elbo in zip(LIKELIHOODS, search.cv_results_["mean_test_score"], strict=True):
        print(f"{name}: -ELBO {-elbo:.1f} nats per row, on average over three folds")

    best = search.best_estimator_
    codes = best.set_output(transform="pandas").transform(held_out)
    print(f"{search.best_params_['likelihood']}: codes of new benign rows\n{codes.head(3)}")
    flagged = {"benign": best.predict(held_out) < 0, "malignant": best.predict(malignant) < 0}
    print(*(f"{name}: {found.mean():.0%} flagged" for name, found in flagged.items()), sep=", ")

    labels = [1] * len(held_out) + [0] * len(malignant)
    aurocs = {}
    for other in (best, IsolationForest(random_state=0).fit(train)):
        scores = [*other.score_samples(held_out), *other.score_samples(malignant)]
        aurocs[type(other).__name__] = float(roc_auc_score(labels, scores))
    print(*(f"{name}: AUROC {value:.3f}" for name, value in aurocs.items()), sep=", ")
    return aurocs


if __name__ == "__main__":
    main()
