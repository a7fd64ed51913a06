// Shows a diff on the page of its link, which leads to it where this script does not run.
for (const link of document.querySelectorAll("a.pgsnap-diff")) {
    link.addEventListener("click", async (event) => {
        event.preventDefault();
        const here = document.getElementById("pgsnap-diff");
        here.textContent = link.dataset.wait;
        try {
            const answer = await fetch(link.href);
            const page = new DOMParser().parseFromString(await answer.text(), "text/html");
            const there = page.querySelector("#pgsnap-diff, #content-main > .errornote");
            if (!answer.redirected && there) {
                here.replaceChildren(...there.childNodes);
                return;
            }
        } catch {
            // The page itself says what is wrong.
        }
        location.href = link.href;
    });
}
